//! Whether the nodes hold the same: asked of each of them by the server's own `inspect`.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::super::mixed::Channel;
use super::super::server::Launch;
use super::nodes::Nodes;
use crate::run::Run;

/// How often the nodes are asked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a node says of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Its digest, and how many cells that is of.
    Holds { digest: String, cells: u64 },
    /// It has none, or cannot say.
    Nothing(String),
}

/// Waits until all nodes hold the same of every channel; how long that took, and whether they do. Where they do not, that is
/// a fault.
pub(super) async fn settle(
    run: &Run,
    nodes: &Arc<Nodes>,
    channels: &[Arc<Channel>],
    limit: Duration,
) -> (Duration, bool) {
    let began = Instant::now();
    let mut open: Vec<_> = channels.iter().map(|channel| channel.name.clone()).collect();
    loop {
        let asked = began.elapsed();
        let stand = standings(nodes, &open).await;
        let differ: Vec<_> = open.into_iter().zip(stand).filter(|(_, stand)| !agree(stand)).collect();
        if differ.is_empty() {
            return (began.elapsed(), true);
        }
        if asked >= limit {
            let secs = limit.as_secs_f64();
            run.verdict.faults(differ.len() as u64, || {
                let name = |(channel, stand): &(String, Vec<Standing>)| {
                    format!("{channel}: nodes differ after {secs} s: {}", said(nodes, stand))
                };
                differ.iter().map(name).collect()
            });
            return (began.elapsed(), false);
        }
        open = differ.into_iter().map(|(channel, _)| channel).collect();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn agree(standings: &[Standing]) -> bool {
    let is_known = |standing: &Standing| matches!(standing, Standing::Holds { .. });
    standings.iter().all(|standing| is_known(standing) && *standing == standings[0])
}

fn said(nodes: &Nodes, standings: &[Standing]) -> String {
    let say = |(node, standing): (&super::nodes::Node, &Standing)| match standing {
        Standing::Holds { digest, cells } => format!("{} has {cells} cells, digest {digest}", node.name),
        Standing::Nothing(why) => format!("{} says {why:?}", node.name),
    };
    nodes.nodes.iter().zip(standings).map(say).collect::<Vec<_>>().join("; ")
}

/// Of each channel what each node says, the nodes asked at once.
async fn standings(nodes: &Arc<Nodes>, channels: &[String]) -> Vec<Vec<Standing>> {
    let mut asked = Vec::new();
    for number in 0..nodes.nodes.len() {
        let (nodes, channels) = (Arc::clone(nodes), channels.to_vec());
        asked.push(tokio::task::spawn_blocking(move || {
            let launch = &nodes.nodes[number].launch;
            channels.iter().map(|channel| inspect(launch, channel)).collect::<Vec<_>>()
        }));
    }
    let mut standings = vec![Vec::new(); channels.len()];
    for of_node in asked {
        let said = of_node.await.expect("nothing panics in it");
        standings.iter_mut().zip(said).for_each(|(of_channel, standing)| of_channel.push(standing));
    }
    standings
}

/// Asks the server that has the data directory open.
fn inspect(launch: &Launch, channel: &str) -> Standing {
    let output = Command::new(&launch.program)
        .args(["inspect", channel, "--json", "--store", &launch.store, "--data"])
        .arg(&launch.data)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => read(&output.stdout)
            .unwrap_or_else(|| Standing::Nothing(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(e) => Standing::Nothing(e.to_string()),
    }
}

fn read(stdout: &[u8]) -> Option<Standing> {
    let line: Value = serde_json::from_slice(stdout.split(|byte| *byte == b'\n').next()?).ok()?;
    let digest = line["digest"].as_str()?.to_owned();
    Some(Standing::Holds { digest, cells: line["cells"].as_u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_agree_if_all_hold_the_same() {
        let holds = |digest: &str| {
            let said = format!(
                "{{\"line\":\"inspected\",\"digest\":\"{digest}\",\"cells\":2}}\n{{\"line\":\"end\"}}\n"
            );
            read(said.as_bytes()).expect("as a server says it")
        };
        let nothing = read(b"{\"line\":\"error\"}\n");
        assert_eq!(nothing, None);
        let nothing = Standing::Nothing("no such channel".into());
        assert!(agree(&[holds("a"), holds("a"), holds("a")]));
        assert!(!agree(&[holds("a"), holds("a"), holds("b")]));
        assert!(!agree(&[holds("a"), nothing.clone()]));
        assert!(!agree(&[nothing.clone(), nothing]), "a server that knows nothing of it has lost it");
    }
}
