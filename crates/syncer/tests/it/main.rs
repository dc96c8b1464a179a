//! The syncer between two API servers in this process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod accounts;
mod chaos;
mod clusters;
mod custom;
mod hostile;
mod kubelet;
mod mapped;
mod nodes;
mod objects;
mod ownership;
mod pods;
mod policies;
mod selection;
mod volumes;
