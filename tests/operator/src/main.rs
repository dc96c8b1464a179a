//! An operator of the usual anatomy: it runs in a pod, watches a custom kind
//! through its service account, makes StatefulSets with claims and Services
//! for each object, and answers a validating webhook with certificates that
//! it issues itself.

mod libraries;
mod webhook;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        ended = run() => ended,
        signalled = terminated() => signalled,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result {
    let client = kube::Client::try_default().await?;
    let serving = webhook::serve(&client).await?;
    eprintln!("the operator is ready");
    tokio::select! {
        served = serving => served,
        () = libraries::control(client) => Err("the controller ended".into()),
    }
}

async fn terminated() -> Result {
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}
