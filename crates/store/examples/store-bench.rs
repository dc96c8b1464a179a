//! Measures a store in a fresh directory below the one given (default: the
//! system's temporary one): durable writes by 1, 8 and 32 writers, reads, and
//! a large list.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_store::{
    Expect, ListRequest, SqliteOptions, SqliteStore, Store, StoreError, WatchMessage, Write,
};
use futures::StreamExt;

/// How long each figure is measured.
const SPAN: Duration = Duration::from_secs(2);

/// Bytes of a value.
const VALUE: usize = 1024;

/// Writes one after the other into the fresh store, as when a cluster starts.
const FIRST: usize = 150;

/// Keys in the large list.
const LISTED: usize = 20_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args().nth(1).map(PathBuf::from);
    let directory = tempfile::tempdir_in(parent.unwrap_or_else(std::env::temp_dir))?;
    let path = directory.path().join("bench.db");
    println!("memory at start     {:>8} KiB", resident_kib()?);
    let started = Instant::now();
    let store = Arc::new(SqliteStore::open(&path, SqliteOptions::default())?);
    println!("open, fresh         {:>8.1} ms", millis(started.elapsed()));
    println!("memory, idle        {:>8} KiB", resident_kib()?);

    let started = Instant::now();
    for number in 0..FIRST {
        let key = format!("/bench/first/{number:06}");
        store.write(&key, Expect::Anything, value()).await?;
    }
    println!(
        "first {FIRST} writes    {:>8.1} ms",
        millis(started.elapsed())
    );
    for writers in [1, 8, 32] {
        let (count, latencies) = write_for(&store, writers).await?;
        println!(
            "writes, {writers:>2} writers  {count:>8.0} /s   p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            percentile(&latencies, 50),
            percentile(&latencies, 99),
            percentile(&latencies, 100),
        );
    }
    for readers in [1, 8] {
        let count = get_for(&store, readers).await?;
        println!("gets, {readers} readers     {count:>8.0} /s");
    }
    list(&store).await?;
    println!("memory, end         {:>8} KiB", resident_kib()?);
    println!(
        "file                {:>8} KiB",
        std::fs::metadata(&path)?.len() / 1024
    );
    Ok(())
}

fn value() -> Write {
    Write::Put {
        value: Bytes::from(vec![b'x'; VALUE]),
        ttl_seconds: None,
    }
}

/// Creates and updates by turns; returns writes a second and, sorted, how long
/// each took in milliseconds.
async fn write_for(
    store: &Arc<SqliteStore>,
    writers: usize,
) -> Result<(f64, Vec<f64>), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let store = Arc::clone(store);
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < SPAN {
                let number = latencies.len() % 500;
                let key = format!("/bench/writers-{writers}/writer-{writer}/{number:06}");
                let asked = Instant::now();
                store.write(&key, Expect::Anything, value()).await?;
                latencies.push(millis(asked.elapsed()));
            }
            Ok::<_, StoreError>(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Ok((rate, latencies))
}

async fn get_for(
    store: &Arc<SqliteStore>,
    readers: usize,
) -> Result<f64, Box<dyn std::error::Error>> {
    let started = Instant::now();
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..readers {
        let (store, count) = (Arc::clone(store), Arc::clone(&count));
        tasks.push(tokio::spawn(async move {
            while started.elapsed() < SPAN {
                for number in 0..100 {
                    let key = format!("/bench/writers-8/writer-3/{number:06}");
                    store.get(&key).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok::<_, StoreError>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}

async fn list(store: &Arc<SqliteStore>) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..32 {
        let store = Arc::clone(store);
        tasks.push(tokio::spawn(async move {
            for number in (writer..LISTED).step_by(32) {
                // Not in the order of the keys, as in life.
                let scattered = number * 7919 % LISTED;
                let key = format!("/list/some-namespace/{scattered:06}");
                store.write(&key, Expect::Absent, value()).await?;
            }
            Ok::<_, StoreError>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    println!(
        "creating {LISTED}      {:>8.1} ms",
        millis(started.elapsed())
    );
    let request = ListRequest {
        prefix: "/list/".to_owned(),
        ..ListRequest::default()
    };
    println!("memory, before list {:>8} KiB", resident_kib()?);
    for round in 1..=3 {
        let started = Instant::now();
        let page = store.list(request.clone()).await?;
        let elapsed = millis(started.elapsed());
        println!("list of {}, {round}    {elapsed:>8.1} ms", page.items.len());
        println!("memory, listed      {:>8} KiB", resident_kib()?);
    }
    let paged = ListRequest {
        limit: Some(500),
        ..request.clone()
    };
    let started = Instant::now();
    let first = store.list(paged.clone()).await?;
    println!("page of 500         {:>8.1} ms", millis(started.elapsed()));
    let older = ListRequest {
        after: first.items.last().map(|kv| kv.key.clone()),
        revision: Some(first.revision - 1000),
        ..paged
    };
    let started = Instant::now();
    store.list(older).await?;
    println!("same, 1000 back     {:>8.1} ms", millis(started.elapsed()));
    watch(store, first.revision).await
}

/// How long a replay takes, and a change to a watcher.
async fn watch(store: &Arc<SqliteStore>, latest: u64) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let mut stream = store.watch("/list/", latest - 10_000).await?;
    let mut seen = 0;
    while seen < 10_000 {
        match stream.next().await {
            Some(Ok(WatchMessage::Events(events))) => seen += events.len(),
            Some(Ok(WatchMessage::Progress(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the watch ended".into()),
        }
    }
    println!("replay of 10000     {:>8.1} ms", millis(started.elapsed()));
    let mut watchers = Vec::new();
    for _ in 0..100 {
        let mut stream = store.watch("/delay/", latest).await?;
        watchers.push(tokio::spawn(async move {
            let mut delays = Vec::new();
            while let Some(Ok(message)) = stream.next().await {
                let WatchMessage::Events(events) = message else {
                    continue;
                };
                let now = since_epoch();
                for event in events {
                    let text = String::from_utf8_lossy(&event.entry.value).into_owned();
                    let Ok(sent) = text.parse::<f64>() else {
                        return delays;
                    };
                    delays.push(now - sent);
                }
            }
            delays
        }));
    }
    for number in 0..40 {
        let write = |text: String| Write::Put {
            value: Bytes::from(text),
            ttl_seconds: None,
        };
        let key = format!("/delay/{number}");
        let text = match number {
            39 => "end".to_owned(),
            _ => since_epoch().to_string(),
        };
        store.write(&key, Expect::Anything, write(text)).await?;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let mut delays = Vec::new();
    for watcher in watchers {
        delays.extend(watcher.await?);
    }
    delays.sort_by(f64::total_cmp);
    println!(
        "to 100 watchers     p50 {:.2} ms, p99 {:.2} ms",
        percentile(&delays, 50),
        percentile(&delays, 99)
    );
    Ok(())
}

fn since_epoch() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0.0, |elapsed| elapsed.as_secs_f64() * 1000.0)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0.0)
}

/// Memory of this process that is its own, in KiB.
fn resident_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let own = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_private = words.next()?.starts_with("Private_");
        is_private
            .then(|| words.next()?.parse::<u64>().ok())
            .flatten()
    });
    Ok(own.sum())
}
