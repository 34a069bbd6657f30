//! The application's tables of one channel, made anew from its cells.

use causeway_storage::RemadeTable;

use super::{Line, OpenStore, Problem, ProblemCode, Tell};

pub(super) fn tell(open: &OpenStore<'_>, channel: &str, tell: Tell<'_>) -> Result<(), Problem> {
    let failed = |e| Problem::store(Some(channel), &e);
    if open.backend.tables && open.schema.is_none() {
        let problem =
            "there is no schema, so there are no tables to make; give --schema, as the server has it";
        return Err(Problem {
            channel: Some(channel.into()),
            code: ProblemCode::NoSchema,
            problem: problem.into(),
        });
    }
    let Some(remade) = open.writer.rebuild(channel).map_err(failed)? else {
        tell(Line::NoTables { channel: channel.into(), store: open.backend.name.into() });
        return Ok(());
    };
    let (tables, rows) = (remade.len() as u64, remade.iter().map(|table| table.rows).sum());
    let lines = remade.into_iter().map(|RemadeTable { table, rows, unfit }| Line::RebuiltTable {
        table,
        rows,
        unfit,
    });
    // `all` stops where nobody listens any more.
    let _ = lines.chain([Line::Rebuilt { channel: channel.into(), tables, rows }]).all(tell);
    Ok(())
}
