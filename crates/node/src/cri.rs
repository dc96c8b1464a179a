//! Client of the container runtime: CRI v1 over a Unix socket, and
//! containerd's own event stream where the runtime has one.
//!
//! The channel connects lazily and reconnects by itself, so a runtime that
//! restarts costs failed calls for as long as it is away and nothing more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint, Uri};

/// Label that ties a sandbox or container to its pod's uid.
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
/// Label with the pod's name.
pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
/// Label with the pod's namespace.
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label with the container's name inside its pod.
pub const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// The namespace in which containerd keeps what it makes for Kubernetes.
pub const CONTAINERD_NAMESPACE: &str = "k8s.io";

/// Longest that an ordinary call may take. Creating a sandbox runs CNI
/// plugins and is the slowest of them.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest that one image pull may take.
const PULL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// What containerd answers, without a code of its own, until it has read what
/// an earlier one left.
const NOT_INITIALIZED: &str = "server is not initialized yet";
/// Largest answer accepted: a list of some thousands of containers.
const MAX_MESSAGE: usize = 64 << 20;

/// A failed call to the container runtime.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CriError {
    /// The runtime answered with an error, or could not be reached.
    #[error("{call}: {message}")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// gRPC status code.
        code: tonic::Code,
        /// The runtime's own words.
        message: String,
    },
    /// The answer lacked a part that the protocol promises.
    #[error("{call}: the runtime's answer lacks {what}")]
    Incomplete {
        /// Name of the call.
        call: &'static str,
        /// What is missing.
        what: &'static str,
    },
}

impl CriError {
    /// Whether the object named in the call does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Call {
                code: tonic::Code::NotFound,
                ..
            }
        )
    }

    /// Whether the call took too long.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Call {
                code: tonic::Code::DeadlineExceeded,
                ..
            }
        )
    }

    /// Whether the runtime could not be reached, or is only just starting:
    /// says nothing about the pod.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Call { code, message, .. } => {
                matches!(code, tonic::Code::Unavailable | tonic::Code::Cancelled)
                    || message.contains(NOT_INITIALIZED)
            }
            Self::Incomplete { .. } => false,
        }
    }
}

type Result<T> = std::result::Result<T, CriError>;

fn failed(call: &'static str) -> impl Fn(tonic::Status) -> CriError {
    move |status| CriError::Call {
        call,
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// Handle on the container runtime; cheap to clone.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
}

/// Result of a command run in a container.
#[derive(Debug, Clone)]
pub struct ExecOutput {
    /// The command's exit code.
    pub exit_code: i32,
    /// What it wrote to standard output and error, in that order.
    pub output: String,
}

fn request<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

/// One unary call of a service: names it once for the error and the method.
macro_rules! call {
    ($client:expr, $method:ident, $message:expr, $timeout:expr) => {
        $client
            .clone()
            .$method(request($message, $timeout))
            .await
            .map(tonic::Response::into_inner)
            .map_err(failed(stringify!($method)))
    };
}

impl Cri {
    /// A client of the runtime that listens on `socket`. Does not connect yet.
    pub fn new(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let channel = Endpoint::from_static("http://cri.invalid").connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move {
                    let stream = tokio::net::UnixStream::connect(socket).await?;
                    Ok::<_, std::io::Error>(TokioIo::new(stream))
                }
            }),
        );
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            channel,
        }
    }

    /// Name and version of the runtime, as in `containerd://1.6.20`.
    pub async fn version(&self) -> Result<String> {
        let version = call!(
            self.runtime,
            version,
            cri::VersionRequest::default(),
            Duration::from_secs(10)
        )?;
        Ok(format!(
            "{}://{}",
            version.runtime_name, version.runtime_version
        ))
    }

    /// The runtime's conditions (RuntimeReady, NetworkReady).
    pub async fn conditions(&self) -> Result<Vec<cri::RuntimeCondition>> {
        let status = call!(
            self.runtime,
            status,
            cri::StatusRequest::default(),
            Duration::from_secs(10)
        )?;
        Ok(status.status.map(|s| s.conditions).unwrap_or_default())
    }

    /// Creates and starts a pod's sandbox; its id.
    pub async fn run_sandbox(&self, config: cri::PodSandboxConfig) -> Result<String> {
        let message = cri::RunPodSandboxRequest {
            config: Some(config),
            ..Default::default()
        };
        Ok(call!(self.runtime, run_pod_sandbox, message, CALL_TIMEOUT)?.pod_sandbox_id)
    }

    /// Stops a sandbox and kills what runs in it. Succeeds if it is gone.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let message = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        gone_is_fine(call!(self.runtime, stop_pod_sandbox, message, CALL_TIMEOUT).map(|_| ()))
    }

    /// Removes a sandbox and its containers. Succeeds if it is gone.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let message = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        gone_is_fine(call!(self.runtime, remove_pod_sandbox, message, CALL_TIMEOUT).map(|_| ()))
    }

    /// State, addresses and namespaces of one sandbox.
    pub async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus> {
        let message = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        call!(self.runtime, pod_sandbox_status, message, CALL_TIMEOUT)?
            .status
            .ok_or(CriError::Incomplete {
                call: "pod_sandbox_status",
                what: "a status",
            })
    }

    /// All sandboxes, or those of the pod with this uid.
    pub async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<cri::PodSandbox>> {
        let filter = pod_uid.map(|uid| cri::PodSandboxFilter {
            label_selector: HashMap::from([(LABEL_POD_UID.to_owned(), uid.to_owned())]),
            ..Default::default()
        });
        let message = cri::ListPodSandboxRequest { filter };
        Ok(call!(self.runtime, list_pod_sandbox, message, CALL_TIMEOUT)?.items)
    }

    /// All sandboxes by id, and whether each is ready.
    ///
    /// # Errors
    /// As the runtime answers.
    pub async fn sandbox_states(&self) -> Result<HashMap<String, bool>> {
        let sandboxes = self.list_sandboxes(None).await?.into_iter();
        let states = sandboxes.map(|sandbox| {
            let ready = sandbox.state() == cri::PodSandboxState::SandboxReady;
            (sandbox.id, ready)
        });
        Ok(states.collect())
    }

    /// All containers, or those of the pod with this uid.
    pub async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<cri::Container>> {
        let filter = pod_uid.map(|uid| cri::ContainerFilter {
            label_selector: HashMap::from([(LABEL_POD_UID.to_owned(), uid.to_owned())]),
            ..Default::default()
        });
        let message = cri::ListContainersRequest { filter };
        Ok(call!(self.runtime, list_containers, message, CALL_TIMEOUT)?.containers)
    }

    /// Everything known of one container.
    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let message = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        call!(self.runtime, container_status, message, CALL_TIMEOUT)?
            .status
            .ok_or(CriError::Incomplete {
                call: "container_status",
                what: "a status",
            })
    }

    /// Creates a container in a sandbox; its id.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let message = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self.runtime, create_container, message, CALL_TIMEOUT)?.container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let message = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        call!(self.runtime, start_container, message, CALL_TIMEOUT).map(|_| ())
    }

    /// Signals a container to stop and kills it after `grace`. Succeeds if it
    /// is gone.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let message = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
        };
        gone_is_fine(call!(self.runtime, stop_container, message, CALL_TIMEOUT + grace).map(|_| ()))
    }

    /// Removes a container. Succeeds if it is gone.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let message = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        gone_is_fine(call!(self.runtime, remove_container, message, CALL_TIMEOUT).map(|_| ()))
    }

    /// Makes the runtime open the container's log file again, after rotation.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let message = cri::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        call!(self.runtime, reopen_container_log, message, CALL_TIMEOUT).map(|_| ())
    }

    /// Runs a command in a container and waits for it.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput> {
        let message = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let answer = call!(
            self.runtime,
            exec_sync,
            message,
            timeout + Duration::from_secs(10)
        )?;
        let mut output = String::from_utf8_lossy(&answer.stdout).into_owned();
        output.push_str(&String::from_utf8_lossy(&answer.stderr));
        Ok(ExecOutput {
            exit_code: answer.exit_code,
            output,
        })
    }

    /// Address of a streaming session that runs a command.
    pub async fn exec_url(&self, request: cri::ExecRequest) -> Result<String> {
        Ok(call!(self.runtime, exec, request, CALL_TIMEOUT)?.url)
    }

    /// Address of a streaming session on a container's main process.
    pub async fn attach_url(&self, request: cri::AttachRequest) -> Result<String> {
        Ok(call!(self.runtime, attach, request, CALL_TIMEOUT)?.url)
    }

    /// Address of a streaming session that forwards ports.
    pub async fn port_forward_url(&self, request: cri::PortForwardRequest) -> Result<String> {
        Ok(call!(self.runtime, port_forward, request, CALL_TIMEOUT)?.url)
    }

    /// Resource use of every container.
    pub async fn container_stats(&self) -> Result<Vec<cri::ContainerStats>> {
        let message = cri::ListContainerStatsRequest::default();
        Ok(call!(self.runtime, list_container_stats, message, CALL_TIMEOUT)?.stats)
    }

    /// The image, if it is present.
    pub async fn image(&self, name: &str) -> Result<Option<cri::Image>> {
        let message = cri::ImageStatusRequest {
            image: Some(image_spec(name)),
            verbose: false,
        };
        Ok(call!(self.images, image_status, message, CALL_TIMEOUT)?.image)
    }

    /// All images present.
    pub async fn list_images(&self) -> Result<Vec<cri::Image>> {
        let message = cri::ListImagesRequest::default();
        Ok(call!(self.images, list_images, message, CALL_TIMEOUT)?.images)
    }

    /// Pulls an image; its reference.
    pub async fn pull_image(&self, name: &str, auth: Option<cri::AuthConfig>) -> Result<String> {
        let message = cri::PullImageRequest {
            image: Some(image_spec(name)),
            auth,
            sandbox_config: None,
        };
        Ok(call!(self.images, pull_image, message, PULL_TIMEOUT)?.image_ref)
    }

    /// All containers that containerd has on record, sandboxes and those being
    /// created included. Fails on other runtimes.
    ///
    /// # Errors
    /// As the runtime answers.
    pub async fn recorded_containers(&self) -> Result<Vec<Recorded>> {
        const CALL: &str = "list_recorded_containers";
        let mut grpc =
            tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| CriError::Call {
            call: CALL,
            code: tonic::Code::Unavailable,
            message: error.to_string(),
        })?;
        let mut message = request(ListRecorded::default(), CALL_TIMEOUT);
        let namespace = tonic::metadata::MetadataValue::from_static(CONTAINERD_NAMESPACE);
        message
            .metadata_mut()
            .insert("containerd-namespace", namespace);
        let path = http::uri::PathAndQuery::from_static(
            "/containerd.services.containers.v1.Containers/List",
        );
        let codec = tonic_prost::ProstCodec::<ListRecorded, RecordedList>::default();
        let listed = grpc
            .unary(message, path, codec)
            .await
            .map_err(failed(CALL))?;
        let records = listed.into_inner().containers.into_iter();
        let recorded = records.map(|record| Recorded {
            id: record.id,
            spec: record.spec.unwrap_or_default().value,
        });
        Ok(recorded.collect())
    }

    /// Subscribes to containerd's task events. Fails on other runtimes.
    ///
    /// The events only say that something changed; callers list afterwards.
    pub async fn task_events(&self) -> Result<tonic::Streaming<TaskEvent>> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| CriError::Call {
            call: "subscribe",
            code: tonic::Code::Unavailable,
            message: error.to_string(),
        })?;
        let message = SubscribeRequest {
            filters: vec!["namespace==k8s.io,topic~=\"/tasks/(start|exit|oom)\"".to_owned()],
        };
        let path =
            http::uri::PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
        grpc.server_streaming(
            tonic::Request::new(message),
            path,
            tonic_prost::ProstCodec::<SubscribeRequest, TaskEvent>::default(),
        )
        .await
        .map(tonic::Response::into_inner)
        .map_err(failed("subscribe"))
    }
}

fn image_spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Asks for containerd's records of containers; without filters for all.
#[derive(Clone, PartialEq, prost::Message)]
struct ListRecorded {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordedList {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<RecordedContainer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordedContainer {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "5")]
    spec: Option<AnyMessage>,
}

/// What containerd has on record of a container, as far as it is used here.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its id.
    pub id: String,
    /// The OCI runtime's configuration, JSON.
    pub spec: Vec<u8>,
}

impl Recorded {
    /// The file of the network namespace that it joins, if it joins one.
    pub fn network_namespace(&self) -> Option<String> {
        let spec: serde_json::Value = serde_json::from_slice(&self.spec).ok()?;
        let namespaces = spec.pointer("/linux/namespaces")?.as_array()?;
        let network = namespaces.iter().find(|n| n["type"] == "network")?;
        network["path"].as_str().map(str::to_owned)
    }
}

/// Subscription to containerd's events; filters are alternatives.
#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// An event of containerd, as far as it is used here.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskEvent {
    #[prost(message, optional, tag = "4")]
    event: Option<AnyMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

impl TaskEvent {
    /// Whether this is the end of a command run in a container, not of a
    /// container: probes cause many of these.
    pub fn is_end_of_exec(&self) -> bool {
        let Some(event) = self
            .event
            .as_ref()
            .filter(|e| e.type_url.ends_with("TaskExit"))
        else {
            return false;
        };
        let exit = <TaskExit as prost::Message>::decode(event.value.as_slice());
        exit.is_ok_and(|e| !e.id.is_empty() && e.id != e.container_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_runtime_that_is_starting_is_not_available() {
        let error = |code, message: &str| CriError::Call {
            call: "exec_sync",
            code,
            message: message.into(),
        };
        let starting = error(tonic::Code::Unknown, "server is not initialized yet");
        assert!(starting.is_unavailable() && !starting.is_timeout());
        assert!(!error(tonic::Code::Unknown, "failed to exec in container").is_unavailable());
        assert!(error(tonic::Code::DeadlineExceeded, "timeout 1s exceeded").is_timeout());
    }

    #[test]
    fn ends_of_commands_are_told_from_ends_of_containers() {
        for (kind, id, want) in [
            ("containerd.events.TaskExit", "c", false),
            ("containerd.events.TaskExit", "", false),
            ("containerd.events.TaskExit", "exec-1", true),
            ("containerd.events.TaskStart", "exec-1", false),
        ] {
            let exit = TaskExit {
                container_id: "c".into(),
                id: id.into(),
            };
            let event = TaskEvent {
                event: Some(AnyMessage {
                    type_url: kind.into(),
                    value: exit.encode_to_vec(),
                }),
            };
            assert_eq!(event.is_end_of_exec(), want, "{kind} {id}");
        }
    }
}
