//! `record`: a proxy before any server of the protocol, that writes an anonymised trace until it is interrupted.

use std::fs::File;
use std::io::{self, BufWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::proxy::{Entry, Proxy};
use super::scribe::{Scribe, Totals};
use crate::options::Record;
use crate::target::Target;

/// Entries that wait for the disk; the proxy bounds their bytes.
const ENTRIES_MAX: usize = 64;
/// After a refused accept, which is nearly always for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Runs it until SIGINT or SIGTERM; what stands on the last line.
pub(crate) async fn run(record: &Record) -> Result<String, String> {
    let to = Target::parse(&record.to)?.address;
    let listener = TcpListener::bind(record.listen).await.map_err(|e| format!("{}: {e}", record.listen))?;
    let at = listener.local_addr().map_err(|e| e.to_string())?;
    let named = |e: io::Error| format!("{}: {e}", record.file.display());
    let file = File::create_new(&record.file).map_err(named)?;
    let scribe = Scribe::new(BufWriter::new(file), record.max_bytes).map_err(named)?;

    let (started, records) = (Instant::now(), Arc::new(AtomicBool::new(true)));
    let (entries, taken) = mpsc::channel(ENTRIES_MAX);
    let writer = std::thread::spawn({
        let records = Arc::clone(&records);
        move || {
            let written = write(scribe, taken, started);
            records.store(false, Relaxed);
            if let Err(e) = &written {
                eprintln!("causeway-loadgen: the recording ended: {e}; connections are still passed on");
            }
            written
        }
    });
    println!(
        "  listening   ws://{at}/\n  passing to  {}\n  recording   {}",
        record.to,
        record.file.display()
    );
    let proxy = Arc::new(Proxy::new(to, started, records, entries));
    carry_all(listener, &proxy).await?;
    // The last sender: the writer ends.
    drop(proxy);
    let totals = writer.join().map_err(|_| "the writer of the trace panicked".to_owned())?.map_err(named)?;
    Ok(format!(
        "{}: {} connections, {} updates with {} changes, {} pulls, {} other messages; {:.1} s, {} bytes",
        record.file.display(),
        totals.connections,
        totals.updates,
        totals.changes,
        totals.pulls,
        totals.others,
        started.elapsed().as_secs_f64(),
        totals.file_bytes,
    ))
}

/// Carries connections until the process is told to end; then they are cut.
async fn carry_all(listener: TcpListener, proxy: &Arc<Proxy>) -> Result<(), String> {
    let on = |kind| signal(kind).map_err(|e| format!("signals cannot be heard: {e}"));
    let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let proxy = Arc::clone(proxy);
                    // However it ends: both sides see that their connection has.
                    connections.spawn(async move { drop(proxy.carry(client).await) });
                }
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            },
            Some(_) = connections.join_next() => {}
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    connections.shutdown().await;
    Ok(())
}

/// Writes all entries, until there are no more senders or the file is full.
fn write(
    mut scribe: Scribe<BufWriter<File>>,
    mut taken: mpsc::Receiver<Entry>,
    started: Instant,
) -> io::Result<Totals> {
    while let Some((at_us, conn, noted, _room)) = taken.blocking_recv() {
        if !scribe.note(at_us, conn, &noted)? {
            eprintln!("causeway-loadgen: the trace is full (--max-bytes); connections are still passed on");
            return scribe.end(at_us, true);
        }
        // So that a kill loses little.
        if taken.is_empty() {
            scribe.flush()?;
        }
    }
    scribe.end(started.elapsed().as_micros() as u64, false)
}
