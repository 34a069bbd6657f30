//! What all parts of a run share, and the measured window.

use std::future::Future;
use std::io::IsTerminal;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::conn::{Conn, ConnError, ConnectWith};
use crate::machine::Machine;
use crate::meter::{Count, Counts, Meter};
use crate::options::Common;
use crate::plan::{Plan, Shape};
use crate::process::{self, Processes, Sample};
use crate::scenario::host::Host;
use crate::target::Target;
use crate::verdict::Verdict;

/// What all tasks of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    /// Where each server listens now: one that is started anew may be somewhere else. Most scenarios have one.
    targets: Vec<RwLock<Target>>,
    pub(crate) common: Common,
    pub(crate) machine: Machine,
    pub(crate) prefix: String,
    pub(crate) meter: Meter,
    pub(crate) verdict: Verdict,
    /// The server's process, or those of all servers.
    pub(crate) processes: Processes,
    /// The server, if it was started for this run.
    pub(crate) host: tokio::sync::Mutex<Option<Host>>,
    /// The server before anything was connected.
    pub(crate) server_before: Option<Sample>,
}

impl Run {
    /// A run against so many servers.
    pub(crate) fn new(common: Common, servers: usize) -> Result<Arc<Self>, String> {
        let target = Target::parse(common.url())?;
        let targets = (0..servers).map(|_| RwLock::new(target.clone())).collect();
        let processes = Processes::default();
        let server_before = match common.pid {
            Some(pid) => Some(process::sample(Some(pid)).map_err(|e| format!("--pid {pid}: {e}"))?),
            None => None,
        };
        common.pid.into_iter().for_each(|pid| processes.add(pid));
        let prefix = common.channel_prefix.clone().unwrap_or_else(unique_prefix);
        let (meter, verdict) = (Meter::new(), Verdict::default());
        let host = tokio::sync::Mutex::new(None);
        let machine = Machine::look();
        Ok(Arc::new(Self {
            targets,
            common,
            machine,
            prefix,
            meter,
            verdict,
            processes,
            host,
            server_before,
        }))
    }

    /// The plan of the run's channel of this number.
    pub(crate) fn plan(&self, number: usize) -> Arc<Plan> {
        let shape = Shape {
            table: self.common.table.clone(),
            columns: self.common.columns,
            keys: self.common.keys,
            values: self.common.values,
            value_bytes: self.common.value_bytes,
            seed: self.common.seed,
        };
        Arc::new(Plan::new(self.channel(number), &shape))
    }

    pub(crate) fn channel(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.targets.len()
    }

    /// Where a server of them listens.
    pub(crate) fn target(&self, server: usize) -> Target {
        self.targets[server].read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections to the server go there from now on.
    pub(crate) fn set_target(&self, server: usize, url: &str) -> Result<(), String> {
        *self.targets[server].write().unwrap_or_else(PoisonError::into_inner) = Target::parse(url)?;
        Ok(())
    }

    /// Opens a connection to the first server, within the drain time.
    pub(crate) async fn connect(&self, channel: &str, with: ConnectWith) -> Result<Conn, ConnError> {
        self.connect_to(0, channel, with).await
    }

    /// Opens a connection to a server, within the drain time.
    pub(crate) async fn connect_to(
        &self,
        server: usize,
        channel: &str,
        with: ConnectWith,
    ) -> Result<Conn, ConnError> {
        let (limit, target) = (self.drain_limit(), self.target(server));
        tokio::time::timeout(limit, Conn::open(&target, channel, with))
            .await
            .unwrap_or(Err(ConnError::Timeout(limit.as_secs())))
    }

    /// How long anything may stay unanswered once the load is over.
    pub(crate) fn drain_limit(&self) -> Duration {
        Duration::from_secs_f64(self.common.drain_seconds)
    }

    pub(crate) fn verifies(&self) -> bool {
        !self.common.no_verify
    }

    /// Opens the measured window after the warm-up, for the seconds of the options.
    pub(crate) fn start_window(&self) {
        let warmup = Duration::from_secs_f64(self.common.warmup_seconds);
        self.meter.set_window(warmup, Duration::from_secs_f64(self.common.seconds));
    }

    /// Whether the measured window has closed.
    pub(crate) fn is_over(&self) -> bool {
        self.meter.now_ns() >= self.meter.closes_ns()
    }

    /// Counts a connection's end that nobody wanted.
    pub(crate) fn connection_lost(&self, who: &str, error: &ConnError) {
        self.meter.error(&error.code());
        self.verdict.fault(|| format!("{who}: {error}"));
    }

    /// Adds the connection's bytes since the last time.
    pub(crate) fn count_bytes(&self, who: usize, conn: &mut Conn) {
        let (bytes_in, bytes_out) = conn.take_bytes();
        if bytes_in > 0 {
            self.meter.add(who, Count::BytesIn, bytes_in);
        }
        if bytes_out > 0 {
            self.meter.add(who, Count::BytesOut, bytes_out);
        }
    }
}

/// Runs start clean without asking the server to forget: their channels' names differ.
pub(crate) fn unique_prefix() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("load-{:x}-{:x}", now.as_millis(), std::process::id())
}

/// What was read between the window's opening and its close.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    pub(crate) counts: Counts,
    pub(crate) own_cpu_s: f64,
    /// What all processes of the machine used.
    pub(crate) machine_cpu_s: Option<f64>,
    /// The server at the opening and at the close.
    pub(crate) server: Option<(Sample, Sample)>,
    /// The least and the most memory of the server, sampled each second.
    pub(crate) server_rss: Option<(u64, u64)>,
}

/// Waits for the window to open, runs `work` to its end, and reads what happened meanwhile.
pub(crate) async fn measure<T>(
    run: &Run,
    show: &[(Count, &str)],
    work: impl Future<Output = T>,
) -> (Figures, T) {
    let progress = Progress::new(run, show);
    progress.line("warm-up");
    tokio::time::sleep_until(run.meter.instant_of(run.meter.opens_ns()).into()).await;
    let sample = || run.processes.sample();
    let own = || process::sample(None).unwrap_or_default().cpu_s;
    let (started, counts, server, own_before) = (Instant::now(), run.meter.read(), sample(), own());
    let machine_before = process::machine_cpu_s();
    let mut rss = server.map(|s| (s.rss_bytes, s.rss_bytes));
    let mut last = (started, counts);
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    let result = loop {
        tokio::select! {
            biased;
            result = &mut work => break result,
            _ = ticks.tick() => {}
        }
        if let (Some((min, max)), Some(now)) = (&mut rss, sample()) {
            *min = (*min).min(now.rss_bytes);
            *max = (*max).max(now.rss_bytes);
        }
        let now = (Instant::now(), run.meter.read());
        progress.rates(started, last, now, rss);
        last = now;
    };
    let end = sample();
    let figures = Figures {
        seconds: started.elapsed().as_secs_f64(),
        counts: run.meter.read().since(&counts),
        own_cpu_s: own() - own_before,
        machine_cpu_s: process::machine_cpu_s().zip(machine_before).map(|(after, before)| after - before),
        server: server.zip(end),
        server_rss: rss.map(|(min, max)| {
            let last = end.map_or(max, |s| s.rss_bytes);
            (min.min(last), max.max(last))
        }),
    };
    progress.done();
    (figures, result)
}

/// The live line on stderr.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    show: Vec<(Count, String)>,
}

impl Progress {
    pub(crate) fn new(run: &Run, show: &[(Count, &str)]) -> Self {
        let quiet = run.common.quiet;
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Self { bar, quiet, show: show.iter().map(|(count, name)| (*count, (*name).to_owned())).collect() }
    }

    /// Shows a line.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text.to_owned());
                bar.tick();
            }
            None if self.quiet => {}
            None => eprintln!("{text}"),
        }
    }

    fn rates(
        &self,
        started: Instant,
        last: (Instant, Counts),
        now: (Instant, Counts),
        rss: Option<(u64, u64)>,
    ) {
        let seconds = (now.0 - last.0).as_secs_f64();
        let delta = now.1.since(&last.1);
        let mut text = format!("{:4.0} s", (now.0 - started).as_secs_f64());
        for (count, name) in &self.show {
            text.push_str(&format!("  {:.0} {name}/s", delta.get(*count) as f64 / seconds));
        }
        if let Some((_, max)) = rss {
            text.push_str(&format!("  server up to {} MiB", max >> 20));
        }
        self.line(&text);
    }

    pub(crate) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
