//! The network threads: what tokio says of them, and how late they are.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use super::Metrics;

/// How often it is measured how late they are.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// Measures, for as long as it is polled, how late a task is woken. A timer alone is up to a millisecond late.
pub async fn watch(metrics: Arc<Metrics>) {
    loop {
        let due = Instant::now() + PROBE_INTERVAL;
        sleep_until(due).await;
        metrics.woken_late(due.elapsed());
    }
}

/// What tokio says, when it is asked.
#[derive(Debug)]
pub(super) struct Runtime;

impl Collector for Runtime {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(runtime) = Handle::try_current() else { return Ok(()) };
        let runtime = runtime.metrics();
        for (name, help, value) in [
            ("tokio_workers", "Network threads", runtime.num_workers()),
            (
                "tokio_alive_tasks",
                "Tasks that have not ended; a connection is one",
                runtime.num_alive_tasks(),
            ),
            (
                "tokio_global_queue_depth",
                "Tasks that wait for any network thread",
                runtime.global_queue_depth(),
            ),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        #[cfg(target_has_atomic = "64")]
        {
            let workers = 0..runtime.num_workers();
            let busy: Duration = workers.map(|worker| runtime.worker_total_busy_duration(worker)).sum();
            let busy = ConstCounter::new(busy.as_secs_f64());
            let help = "Time that network threads were at work, over all of them";
            let unit = Unit::Seconds;
            busy.encode(encoder.encode_descriptor("tokio_busy", help, Some(&unit), busy.metric_type())?)?;
        }
        Ok(())
    }
}
