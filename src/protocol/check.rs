//! An update against the application's schema.

use causeway_storage::Schema;
use causeway_storage::schema::Refused;

use super::{Code, Incoming, IncomingUpdate, Refusal};

/// Takes a message whose changes, if it has any, are all of the schema.
///
/// # Errors
/// A [`Refusal`] for the sender of the first change that is not, naming its index and field.
pub fn check(incoming: Incoming, schema: &Schema) -> Result<Incoming, Refusal> {
    match incoming {
        Incoming::Update(ref update) => check_update(update, schema).map(|()| incoming),
        Incoming::Pull { .. } | Incoming::Auth { .. } => Ok(incoming),
    }
}

fn check_update(update: &IncomingUpdate, schema: &Schema) -> Result<(), Refusal> {
    // For the bytes of keys: one allocation for all.
    let mut buffer = Vec::new();
    for (index, change) in update.changes().enumerate() {
        schema.check(&change, &mut buffer).map_err(|refused| {
            let code = match refused {
                Refused::UnknownTable { .. } => Code::UnknownTable,
                Refused::UnknownColumn { .. } | Refused::KeyColumn { .. } => Code::UnknownColumn,
                _ => Code::InvalidChange,
            };
            let message = format!("changes[{index}].{refused}");
            Refusal::new(code, message).of_update(update.version)
        })?;
    }
    Ok(())
}
