//! The garbage collector: deletes objects whose owners are gone, and carries
//! out foreground and orphaning deletions.

mod graph;
mod monitors;
mod work;

use std::sync::{Arc, Mutex};

use crate::context::{Context, Task};
use crate::queue::Queue;

use graph::Graph;
use work::Collector;

/// Objects that are looked at at once.
const WORKERS: usize = 16;

/// What to look at: an object by its uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    /// Delete it if its owners are gone, or finish its foreground deletion.
    Delete(String),
    /// Cut its dependents loose, then let it go.
    Orphan(String),
}

/// Registers the controller and returns its work. It must be registered last,
/// so that it can follow the caches that other controllers fill.
pub(crate) fn start(context: &Context) -> Task {
    let queue: Arc<Queue<Job>> = Queue::new();
    let graph = Arc::new(Mutex::new(Graph::default()));
    let monitors = monitors::Monitors::new(context, graph.clone(), queue.clone());
    let collector = Arc::new(Collector {
        api: context.api.clone(),
        graph,
        catalogue: monitors.catalogue(),
    });
    let work = {
        let queue = queue.clone();
        context.work("garbage-collector", WORKERS, queue.clone(), move |job| {
            let (collector, queue) = (collector.clone(), queue.clone());
            async move { collector.run(job, &queue).await }
        })
    };
    Box::pin(async move {
        // The graph need not be whole before work begins: an owner that is not
        // in it is asked for before anything is deleted.
        futures::join!(monitors.run(), work);
    })
}
