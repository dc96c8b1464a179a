//! The service proxy: services and their endpoints as rules of nftables.
//!
//! [`model`] reads what services want, [`ruleset`] says it in nftables'
//! terms, and this module keeps the kernel's table in step. Only what differs
//! is written, in one transaction, so that connections through unchanged
//! services never notice.

pub mod model;
pub mod ruleset;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::agent::Proxied;
use crate::nft::{self, Ruleset};
use crate::pod::worker::Shared;
use crate::watched::watch;
use ruleset::Settings;

/// Least time between two writes of the rules: bursts become one write.
const COALESCE: Duration = Duration::from_millis(50);
const BETWEEN_WRITES: Duration = Duration::from_millis(200);
/// Pause after a failed write; the next one replaces the whole table.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the rules in step with services and endpoints until shutdown. The
/// rules stay when the agent stops.
pub(crate) async fn run(
    shared: Arc<Shared>,
    services: Store<Service>,
    services_changed: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let settings = match Settings::new(&shared.config) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!(%error, "service proxy not started");
            return;
        }
    };
    let services_too = shared.config.proxy == Proxied::Services;
    let (slices, slices_changed) = if services_too {
        let watched = watch::<EndpointSlice>(&shared.client, &shutdown);
        (watched.store, watched.changed)
    } else {
        // A store that stays empty.
        (reflector::store().0, Arc::default())
    };
    if services_too {
        let ready = async { tokio::join!(services.wait_until_ready(), slices.wait_until_ready()) };
        tokio::select! {
            _ = ready => {}
            () = shutdown.cancelled() => return,
        }
    }
    let table = format!("ip {}", settings.table);
    let mut applied: Option<Ruleset> = None;
    let mut udp_before = BTreeSet::new();
    loop {
        let mut ports = if services_too {
            model::services(&services.state(), &slices.state(), &settings)
        } else {
            model::Ports::default()
        };
        model::add_host_ports(&mut ports, shared.index.host_ports());
        let wanted = ruleset::build(&ports, &settings);
        let text = nft::transition(applied.as_ref(), &wanted, &table);
        let mut pause = BETWEEN_WRITES;
        if !text.is_empty() {
            match nft::apply(&text).await {
                Ok(()) => {
                    applied = Some(wanted);
                    let udp = model::udp_flows(&ports);
                    forget_flows(&udp_before, &udp).await;
                    udp_before = udp;
                }
                Err(error) => {
                    tracing::warn!(%error, "service rules not written");
                    applied = None;
                    pause = RETRY;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        if applied.is_some() {
            tokio::select! {
                () = services_changed.notified(), if services_too => {}
                () = slices_changed.notified() => {}
                () = shared.index.addresses_changed.notified() => {}
                () = shutdown.cancelled() => return,
            }
            tokio::time::sleep(COALESCE).await;
        }
    }
}

/// Makes the kernel forget UDP flows that lead to endpoints now gone: without
/// a connection's end they would go there for as long as packets come.
async fn forget_flows(
    before: &BTreeSet<(Ipv4Addr, Option<Ipv4Addr>)>,
    now: &BTreeSet<(Ipv4Addr, Option<Ipv4Addr>)>,
) {
    for (address, endpoint) in before.difference(now) {
        let address = address.to_string();
        let mut arguments = vec!["-D", "-p", "udp", "--orig-dst", &address];
        let endpoint = endpoint.map(|e| e.to_string());
        if let Some(endpoint) = &endpoint {
            arguments.extend(["--dst-nat", endpoint]);
        }
        let done = Command::new("conntrack")
            .args(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        // Exit code 1 says that there was no such flow.
        if let Err(error) = done {
            tracing::debug!(%error, "UDP flows not forgotten");
            return;
        }
    }
}
