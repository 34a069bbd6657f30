//! Pulls a channel from the beginning, and compares what is stored with what was acked.

use crate::cells::Cells;
use crate::conn::{Conn, ConnError, ConnectWith};
use crate::plan::Plan;
use crate::run::Run;
use crate::scan::{Incoming, Scanner};
use crate::verdict::NAMED_MAX;

/// A connection that pulls, one pull at a time.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) who: usize,
    conn: Conn,
    scanner: Scanner,
    version: Option<u64>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) cells: Cells,
    pub(crate) rows: u64,
    /// Changes that do not prove to be the generator's own.
    pub(crate) foreign: u64,
}

/// Why a pull gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error(transparent)]
    Conn(#[from] ConnError),
    #[error("{0}")]
    Answer(String),
}

impl Puller {
    pub(crate) async fn open(run: &Run, who: usize, plan: &Plan) -> Result<Self, ConnError> {
        let conn = run.connect(&plan.channel, ConnectWith::default()).await?;
        Ok(Self { who, conn, scanner: Scanner::default(), version: None })
    }

    /// Pulls everything above version `from`. Fails when nothing comes for the drain time.
    pub(crate) async fn pull(
        &mut self,
        run: &Run,
        plan: &Plan,
        from: u64,
        overwritten: bool,
    ) -> Result<Pulled, PullError> {
        let channel = serde_json::Value::from(plan.channel.as_str());
        let text = format!(
            r#"{{"type":"pull","siteId":"{:032X}","version":{from},"channel":{channel}}}"#,
            0xCB_u128 << 120
        );
        self.conn.queue_text(text.as_bytes());
        let mut pulled = Pulled { cells: Cells::new(overwritten), rows: 0, foreign: 0 };
        let mut end: Option<Result<(), String>> = None;
        while end.is_none() {
            let Self { conn, scanner, version: last, .. } = self;
            let turn = conn.turn(|text| match scanner.read(text, plan) {
                Ok(Incoming::Update { version, more }) => {
                    pulled.rows += scanner.changes.len() as u64 + scanner.foreign;
                    pulled.foreign += scanner.foreign;
                    for change in &scanner.changes {
                        pulled.cells.note(plan.cell(change.row, change.column), change.col_version);
                    }
                    // A server without pages says nothing of `more`: one message is the answer, and its version is
                    // one that was seen before, where a live update's is always new.
                    if more == Some(false) || (more.is_none() && *last >= Some(version)) {
                        end = Some(Ok(()));
                    }
                    *last = (*last).max(Some(version));
                }
                Ok(Incoming::Connected { version }) => *last = Some(version),
                Ok(Incoming::Error { code, text, .. }) => {
                    run.meter.error(&code);
                    end = Some(Err(format!("error {code}: {text}")));
                }
                Ok(_) => {}
                Err(e) => end = Some(Err(e.to_string())),
            });
            let limit = run.drain_limit();
            tokio::time::timeout(limit, turn).await.unwrap_or(Err(ConnError::Timeout(limit.as_secs())))?;
            run.count_bytes(self.who, &mut self.conn);
        }
        end.unwrap_or(Ok(())).map_err(PullError::Answer)?;
        Ok(pulled)
    }
}

/// Pulls the channel on a fresh connection and names each acked change that is not there.
pub(crate) async fn verify_stored(run: &Run, plan: &Plan, acked: &Cells) {
    let overwritten = matches!(acked, Cells::Versions(_));
    let pulled = match Puller::open(run, 0, plan).await {
        Ok(mut puller) => puller.pull(run, plan, 0, overwritten).await,
        Err(e) => Err(e.into()),
    };
    match pulled {
        Ok(pulled) => {
            run.verdict.faults(pulled.foreign, || {
                vec![format!("pull of {}: {} changes that nobody sent", plan.channel, pulled.foreign)]
            });
            verify_cells(run, plan, "the pull", &pulled.cells, acked);
        }
        Err(e) => run.verdict.fault(|| format!("pull of {}: {e}", plan.channel)),
    }
}

/// Names what `seen` lacks of `wanted`.
pub(crate) fn verify_cells(run: &Run, plan: &Plan, who: &str, seen: &Cells, wanted: &Cells) {
    report_missing(run, plan, who, seen.missing(wanted, NAMED_MAX), wanted.len());
}

/// Reports cells found missing; `checked` is how many were looked for.
pub(crate) fn report_missing(
    run: &Run,
    plan: &Plan,
    who: &str,
    missing: (Vec<(u64, u32)>, u64),
    checked: u64,
) {
    let (first, count) = missing;
    run.verdict.checked(checked);
    run.verdict.lost(count, || {
        let name = |(cell, col_version): &(u64, u32)| {
            let (row, column) = plan.row_and_column(*cell);
            let pk = plan.pk(row);
            format!("{who} of {} lacks {pk} c{column} at col_version {col_version} or above", plan.channel)
        };
        first.iter().map(name).collect()
    });
}
