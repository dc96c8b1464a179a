//! A list of all objects: its time, its first byte, and what it costs.

use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt as _;

use crate::Result;
use crate::client::Connection;
use crate::load::Load;
use crate::process::Peaks;
use crate::report::Report;
use crate::stats::Samples;

/// How often the list is read.
const ROUNDS: usize = 9;

/// Lists the objects that were created.
pub async fn measure(load: &Load<'_>, report: &mut Report) -> Result {
    crate::say(&format!("listing {} objects", load.objects()));
    let pids = &load.target.pids;
    let (mut total, mut first, mut growth) = <(Samples, Samples, Samples)>::default();
    let mut connection = Connection::open(&load.target.access).await?;
    let mut size = 0.0;
    for _ in 0..ROUNDS {
        let peaks = Peaks::start(pids)?;
        let started = Instant::now();
        let answer = connection
            .send("GET", &Load::collection(), Bytes::new())
            .await?;
        if !answer.status().is_success() {
            return Err(format!("the list was answered with {}", answer.status()));
        }
        let mut body = answer.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| e.to_string())?;
            if bytes == 0 {
                first.add_millis(started.elapsed());
            }
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        total.add_millis(started.elapsed());
        size = bytes as f64;
        growth.add(peaks.growth()? / size);
    }
    report.add("list.total", total.median());
    report.add("list.first", first.median());
    report.add("list.size", size / 1e6);
    if !pids.is_empty() {
        // The worst: memory that was grown once is there for the next list.
        report.add("list.growth", growth.quantile(1.0));
    }
    Ok(())
}
