//! The wire: questions become look-ups, answers become messages.

use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{Name, RData, Record as DnsRecord, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::net::IpAddr;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::forward::Upstreams;
use crate::index::{Answer, Index, Question, Record};

/// How long answers may be kept, in seconds: CoreDNS' default for Kubernetes
/// is 5 as well, so that clients follow changes.
const TTL: u32 = 5;
/// How long a TCP connection may be idle.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Responses queued for one TCP connection.
const TCP_QUEUE: usize = 16;
/// The longest ExternalName chain that is followed.
const MAX_CNAMES: usize = 8;

/// What is answered for.
pub struct Zone {
    /// The domain.
    pub domain: String,
    /// Names of it that are unknown are asked for upstream.
    pub fallback: bool,
}

/// Serves UDP and TCP until `shutdown`.
pub async fn serve(
    listen: SocketAddr,
    zone: Zone,
    index: Arc<RwLock<Index>>,
    upstreams: Upstreams,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let failed = |source| Error::Listen {
        address: listen,
        source,
    };
    let udp = UdpSocket::bind(listen).await.map_err(failed)?;
    let tcp = TcpListener::bind(udp.local_addr().map_err(failed)?)
        .await
        .map_err(failed)?;
    let Zone { domain, fallback } = zone;
    let zone = Name::from_str(&format!("{domain}.")).map_err(|_| Error::Domain(domain))?;
    let mut server = Server::new(Handler {
        zone,
        fallback,
        index,
        upstreams,
    });
    server.register_socket(udp);
    server.register_listener(tcp, TCP_TIMEOUT, TCP_QUEUE);
    tokio::select! {
        result = server.block_until_done() => result.map_err(|e| Error::Server(e.to_string())),
        () = shutdown.cancelled() => {
            server.shutdown_gracefully().await.map_err(|e| Error::Server(e.to_string()))
        }
    }
}

struct Handler {
    zone: Name,
    fallback: bool,
    index: Arc<RwLock<Index>>,
    upstreams: Upstreams,
}

/// A response before it is put on the wire.
#[derive(Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<DnsRecord>,
    authorities: Vec<DnsRecord>,
    additionals: Vec<DnsRecord>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().max(512));
            edns
        });
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(
            metadata,
            &reply.answers,
            &reply.authorities,
            std::iter::empty(),
            &reply.additionals,
        );
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot answer");
                failure_info(request)
            }
        }
    }
}

/// What is reported of a response that could not be sent.
fn failure_info(request: &Request) -> ResponseInfo {
    use hickory_server::proto::op::{Header, HeaderCounts};
    let mut metadata = Metadata::new(
        request.metadata.id,
        MessageType::Response,
        request.metadata.op_code,
    );
    metadata.response_code = ResponseCode::ServFail;
    Header {
        metadata,
        counts: HeaderCounts::default(),
    }
    .into()
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let Ok(info) = request.request_info() else {
            return Reply::code(ResponseCode::FormErr);
        };
        if info.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        let kind = info.query.query_type();
        let name: Name = info.query.original().name().to_lowercase();
        let mut reply = Reply {
            authoritative: true,
            ..Reply::default()
        };
        let mut owner = name;
        for _ in 0..MAX_CNAMES {
            match self.look_up(&owner, kind) {
                Answer::NotOurs if reply.answers.is_empty() => {
                    return self.forward(request.as_slice(), info.protocol).await;
                }
                Answer::NotOurs => return self.finish_chain(reply, owner, kind).await,
                Answer::NoSuchName => {
                    if reply.answers.is_empty() {
                        if let Some(found) = self.fall_back(request, info.protocol).await {
                            return found;
                        }
                        reply.code = ResponseCode::NXDomain;
                    }
                    reply.authorities.push(self.soa());
                    return reply;
                }
                Answer::Records(records) => {
                    let target = reply.add(&owner, records);
                    match target.filter(|_| kind != RecordType::CNAME) {
                        Some(target) => owner = target,
                        None => {
                            if reply.answers.is_empty() {
                                reply.authorities.push(self.soa());
                            }
                            return reply;
                        }
                    }
                }
            }
        }
        Reply::code(ResponseCode::ServFail)
    }

    fn look_up(&self, name: &Name, kind: RecordType) -> Answer {
        let labels: Vec<String> = name
            .iter()
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        let question = match kind {
            RecordType::A => Question::A,
            RecordType::AAAA => Question::Aaaa,
            RecordType::SRV => Question::Srv,
            RecordType::TXT => Question::Txt,
            RecordType::PTR => Question::Ptr,
            _ => Question::Other,
        };
        self.index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .answer(&labels, question)
    }

    /// What upstream servers know of a name that is unknown here.
    async fn fall_back(&self, request: &Request, protocol: Protocol) -> Option<Reply> {
        if !self.fallback {
            return None;
        }
        let reply = self.forward(request.as_slice(), protocol).await;
        (reply.code == ResponseCode::NoError).then_some(reply)
    }

    /// Passes a question on as it came.
    async fn forward(&self, message: &[u8], protocol: Protocol) -> Reply {
        let answer = self.upstreams.ask(message, protocol == Protocol::Tcp).await;
        match answer.and_then(|bytes| Message::from_vec(&bytes).ok()) {
            Some(message) => Reply::from_upstream(message),
            None => Reply::code(ResponseCode::ServFail),
        }
    }

    /// Looks the target of an ExternalName up outside.
    async fn finish_chain(&self, mut reply: Reply, target: Name, kind: RecordType) -> Reply {
        let mut question = Message::query();
        let mut query = hickory_server::proto::op::Query::new();
        query.set_name(target);
        query.set_query_type(kind);
        question.add_query(query);
        question.metadata.recursion_desired = true;
        let Ok(bytes) = question.to_vec() else {
            return Reply::code(ResponseCode::ServFail);
        };
        let found = self.forward(&bytes, Protocol::Udp).await;
        reply.authoritative = false;
        reply.answers.extend(found.answers);
        reply
    }

    /// The record that tells how long absence may be remembered.
    fn soa(&self) -> DnsRecord {
        let server = Name::from_str("ns.dns").and_then(|n| n.append_domain(&self.zone));
        let person = Name::from_str("hostmaster").and_then(|n| n.append_domain(&self.zone));
        let soa = SOA::new(
            server.unwrap_or_else(|_| self.zone.clone()),
            person.unwrap_or_else(|_| self.zone.clone()),
            1,
            7200,
            1800,
            86400,
            TTL,
        );
        DnsRecord::from_rdata(self.zone.clone(), TTL, RData::SOA(soa))
    }
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    fn from_upstream(message: Message) -> Self {
        Self {
            code: message.metadata.response_code,
            authoritative: false,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }

    /// Adds records of `owner`; returns the target if it is only another name.
    fn add(&mut self, owner: &Name, records: Vec<Record>) -> Option<Name> {
        let absolute = |text: &str| Name::from_str(&format!("{text}.")).ok();
        let mut target = None;
        for record in records {
            let (name, data, additional) = match record {
                Record::Address { name, address } => {
                    let data = match address {
                        IpAddr::V4(v4) => RData::A(A(v4)),
                        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
                    };
                    let other = name.as_deref().and_then(absolute);
                    let additional = other.is_some();
                    (other.unwrap_or_else(|| owner.clone()), data, additional)
                }
                Record::Cname(text) => {
                    let Some(name) = absolute(&text) else {
                        continue;
                    };
                    target = Some(name.clone());
                    (owner.clone(), RData::CNAME(CNAME(name)), false)
                }
                Record::Srv { port, target } => {
                    let Some(target) = absolute(&target) else {
                        continue;
                    };
                    (
                        owner.clone(),
                        RData::SRV(SRV::new(0, 100, port, target)),
                        false,
                    )
                }
                Record::Txt(text) => (owner.clone(), RData::TXT(TXT::new(vec![text])), false),
                Record::Ptr(text) => {
                    let Some(name) = absolute(&text) else {
                        continue;
                    };
                    (owner.clone(), RData::PTR(PTR(name)), false)
                }
            };
            let record = DnsRecord::from_rdata(name, TTL, data);
            if additional {
                self.additionals.push(record)
            } else {
                self.answers.push(record)
            }
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Service;

    async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
        let mut query = hickory_server::proto::op::Query::new();
        query.set_name(Name::from_str(name).unwrap());
        query.set_query_type(kind);
        let mut message = Message::query();
        message.add_query(query);
        let bytes = message.to_vec().unwrap();
        let answer = Upstreams::new(vec![server])
            .ask(&bytes, false)
            .await
            .unwrap();
        Message::from_vec(&answer).unwrap()
    }

    /// A server on loopback; its port was free a moment ago.
    async fn started(index: Index, upstreams: Upstreams) -> (SocketAddr, CancellationToken) {
        started_as(index, upstreams, false).await
    }

    async fn started_as(
        index: Index,
        upstreams: Upstreams,
        fallback: bool,
    ) -> (SocketAddr, CancellationToken) {
        let listen = UdpSocket::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let shutdown = CancellationToken::new();
        let (stop, index) = (shutdown.clone(), Arc::new(RwLock::new(index)));
        let zone = Zone {
            domain: "cluster.local".into(),
            fallback,
        };
        tokio::spawn(async move { serve(listen, zone, index, upstreams, stop).await });
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(listen).await.is_ok() {
                return (listen, shutdown);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server did not start");
    }

    #[tokio::test]
    async fn own_names_are_answered_and_others_passed_on() {
        let service = |address: &str| Service {
            addresses: vec![address.parse().unwrap()],
            ..Service::default()
        };
        let mut outer = Index::new("example.com");
        outer.set_service(("a".into(), "b".into()), Some(service("192.0.2.1")));
        let (upstream, stop_upstream) = {
            let listen = started_zone(outer).await;
            (listen.0, listen.1)
        };
        let mut index = Index::new("cluster.local");
        index.set_service(("demo".into(), "web".into()), Some(service("10.96.0.7")));
        let out = Service {
            external_name: Some("b.a.svc.example.com".into()),
            ..Service::default()
        };
        index.set_service(("demo".into(), "out".into()), Some(out));
        let (server, stop) = started(index, Upstreams::new(vec![upstream])).await;

        let found = ask(server, "WEB.demo.svc.cluster.local.", RecordType::A).await;
        assert_eq!(
            found.answers[0].data,
            RData::A(A("10.96.0.7".parse().unwrap()))
        );
        assert!(found.metadata.authoritative);
        let absent = ask(server, "nope.demo.svc.cluster.local.", RecordType::A).await;
        assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(absent.authorities.len(), 1);
        let empty = ask(server, "web.demo.svc.cluster.local.", RecordType::AAAA).await;
        assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
        assert!(empty.answers.is_empty());
        let chain = ask(server, "out.demo.svc.cluster.local.", RecordType::A).await;
        assert_eq!(chain.answers.len(), 2, "{chain:?}");
        let outside = ask(server, "b.a.svc.example.com.", RecordType::A).await;
        assert_eq!(
            outside.answers[0].data,
            RData::A(A("192.0.2.1".parse().unwrap()))
        );
        stop.cancel();
        stop_upstream.cancel();
    }

    async fn started_zone(index: Index) -> (SocketAddr, CancellationToken) {
        started(index, Upstreams::new(vec![])).await
    }

    #[tokio::test]
    async fn unknown_names_of_the_domain_may_be_asked_for_upstream() {
        let with = |name: &str, address: &str| {
            let mut index = Index::new("cluster.local");
            let service = Service {
                addresses: vec![address.parse().unwrap()],
                ..Service::default()
            };
            index.set_service(("demo".into(), name.into()), Some(service));
            index
        };
        let (host, stop_host) = started_zone(with("host", "192.0.2.1")).await;
        let inside = with("inside", "10.96.0.7");
        let (server, stop) = started_as(inside, Upstreams::new(vec![host]), true).await;
        for (name, address) in [("inside", "10.96.0.7"), ("host", "192.0.2.1")] {
            let found = ask(
                server,
                &format!("{name}.demo.svc.cluster.local."),
                RecordType::A,
            )
            .await;
            assert_eq!(found.answers[0].data, RData::A(A(address.parse().unwrap())));
        }
        let absent = ask(server, "nope.demo.svc.cluster.local.", RecordType::A).await;
        assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
        stop.cancel();
        stop_host.cancel();
    }
}
