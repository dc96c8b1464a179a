//! Watching: resuming, selectors, bookmarks, slow watchers; and that a list
//! plus the events after it make up the final state.

use std::collections::BTreeMap;

use std::sync::Arc;

use async_trait::async_trait;
use coracle_apiserver::ApiServer;
use coracle_machinery::GroupResource;
use coracle_store::{
    Expect, KeyValue, ListRequest, Outcome, Page, Revision, Store, StoreError, WatchStream, Write,
};
use futures::StreamExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Caller, Lines, kinds, server, store};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, app: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

fn revision(object: &Value) -> String {
    let revision = object["metadata"]["resourceVersion"].as_str();
    revision.unwrap().to_owned()
}

#[tokio::test]
async fn a_watch_starts_with_the_state_or_after_a_revision() {
    let c = Caller(server());
    let a = c.post(PODS, &pod("a", "x")).await.ok();
    let mut all = Lines::open(&c, &format!("{PODS}?watch=true")).await;
    let mut any = Lines::open(&c, "/api/v1/watch/pods?resourceVersion=0").await;
    let from = format!("{PODS}?watch=1&resourceVersion={}", revision(&a));
    let mut after = Lines::open(&c, &from).await;
    let mut other = Lines::open(&c, "/api/v1/namespaces/other/pods?watch=1").await;
    c.post(PODS, &pod("b", "x")).await.ok();
    let mut changed = pod("a", "y");
    changed["metadata"]["annotations"] = json!({"k": "v"});
    c.put(&format!("{PODS}/a"), &changed).await.ok();
    c.delete(&format!("{PODS}/b")).await.ok();
    c.post("/api/v1/namespaces/other/pods", &pod("o", "x"))
        .await
        .ok();
    for watch in [&mut all, &mut any] {
        assert_eq!(watch.told().await, "ADDED a");
    }
    for watch in [&mut all, &mut any, &mut after] {
        assert_eq!(watch.told().await, "ADDED b");
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "MODIFIED");
        assert_eq!(event["object"]["metadata"]["annotations"]["k"], "v");
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "DELETED");
        assert_eq!(event["object"]["metadata"]["name"], "b");
    }
    assert_eq!(other.told().await, "ADDED o");
    assert_eq!(any.told().await, "ADDED o");
}

#[tokio::test]
async fn selectors_turn_changes_into_comings_and_goings() {
    let c = Caller(server());
    let mut x = Lines::open(&c, &format!("{PODS}?watch=1&labelSelector=app%3Dx")).await;
    let mut node = Lines::open(
        &c,
        &format!("{PODS}?watch=1&fieldSelector=spec.nodeName%3Dn"),
    )
    .await;
    let mut one = Lines::open(
        &c,
        &format!("{PODS}?watch=1&fieldSelector=metadata.name%3Dp"),
    )
    .await;
    c.post(PODS, &pod("p", "y")).await.ok();
    c.put(&format!("{PODS}/p"), &pod("p", "x")).await.ok();
    c.post(PODS, &pod("q", "x")).await.ok();
    let bind = json!({"metadata": {"name": "p"}, "target": {"name": "n"}});
    c.post(&format!("{PODS}/p/binding"), &bind).await.ok();
    c.put(&format!("{PODS}/q"), &pod("q", "y")).await.ok();
    let gone = c
        .call(
            "DELETE",
            &format!("{PODS}/p"),
            "application/json",
            r#"{"gracePeriodSeconds":0}"#,
        )
        .await;
    gone.ok();
    for wanted in ["ADDED p", "ADDED q", "MODIFIED p", "DELETED q", "DELETED p"] {
        assert_eq!(x.told().await, wanted);
    }
    for wanted in ["ADDED p", "DELETED p"] {
        assert_eq!(node.told().await, wanted);
    }
    for wanted in ["ADDED p", "MODIFIED p", "MODIFIED p", "DELETED p"] {
        assert_eq!(one.told().await, wanted);
    }
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let c = Caller(server());
    for i in 0..150 {
        c.post(PODS, &pod(&format!("p{i:03}"), "x")).await.ok();
    }
    let target = format!(
        "{PODS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let mut watch = Lines::open(&c, &target).await;
    for i in 0..150 {
        assert_eq!(watch.told().await, format!("ADDED p{i:03}"));
    }
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    let metadata = &mark["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(metadata["resourceVersion"], "150");
    // The timeout ends it.
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_revision_that_is_gone_is_refused_with_410() {
    let store = store();
    let c = Caller(ApiServer::builder(store.clone()).kinds(kinds()).build());
    let first = c.post(PODS, &pod("a", "x")).await.ok();
    // The hub starts here and does not hold what came before.
    Lines::open(&c, &format!("{PODS}?watch=1")).await;
    c.post(PODS, &pod("b", "x")).await.ok();
    let from = format!("{PODS}?watch=1&resourceVersion={}", revision(&first));
    let mut replayed = Lines::open(&c, &from).await;
    assert_eq!(replayed.told().await, "ADDED b");
    store
        .compact(store.revision().await.unwrap())
        .await
        .unwrap();
    let from = format!("{PODS}?watch=1&resourceVersion=0{}", revision(&first));
    drop(c);
    let c = Caller(ApiServer::builder(store.clone()).kinds(kinds()).build());
    let answer = c.get(&from).await;
    assert_eq!(
        answer.body["reason"]
            .as_str()
            .or(answer.body["object"]["reason"].as_str()),
        Some("Expired")
    );
}

#[tokio::test]
async fn a_watch_from_before_a_restart_stays_in_its_namespace_and_with_its_object() {
    let store = store();
    let c = Caller(ApiServer::builder(store.clone()).kinds(kinds()).build());
    let first = c.post(PODS, &pod("first", "x")).await.ok();
    c.post("/api/v1/namespaces/other/pods", &pod("secret", "x"))
        .await
        .ok();
    // Keys that begin with those which are asked for.
    c.post("/api/v1/namespaces/default-too/pods", &pod("secret", "x"))
        .await
        .ok();
    c.post(PODS, &pod("ab", "x")).await.ok();
    c.post(PODS, &pod("a", "x")).await.ok();
    drop(c);
    // A new server's hubs hold nothing of this: the store tells it.
    let c = Caller(ApiServer::builder(store).kinds(kinds()).build());
    let from = format!("watch=1&resourceVersion={}", revision(&first));
    let mut namespace = Lines::open(&c, &format!("{PODS}?{from}")).await;
    assert_eq!(namespace.told().await, "ADDED ab");
    assert_eq!(namespace.told().await, "ADDED a");
    let one = format!("{PODS}?fieldSelector=metadata.name%3Da&{from}");
    let path = format!("/api/v1/watch/namespaces/default/pods/a?{from}");
    for target in [one, path] {
        let mut object = Lines::open(&c, &target).await;
        assert_eq!(object.told().await, "ADDED a", "{target}");
    }
    // What comes live afterwards is narrowed as well.
    c.post("/api/v1/namespaces/other/pods", &pod("later", "x"))
        .await
        .ok();
    c.post(PODS, &pod("last", "x")).await.ok();
    assert_eq!(namespace.told().await, "ADDED last");
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off_and_the_others_are_not() {
    let c = Caller(server());
    let path = "/api/v1/namespaces/default/configmaps";
    let mut slow = Lines::open(&c, &format!("{path}?watch=1")).await;
    let mut quick = Lines::open(&c, &format!("{path}?watch=1")).await;
    for i in 0..1200 {
        let map = json!({"metadata": {"name": format!("m{i:04}")}});
        c.post(path, &map).await.ok();
        assert_eq!(quick.told().await, format!("ADDED m{i:04}"));
    }
    let mut last = json!(null);
    while let Some(event) = slow.next().await {
        last = event;
    }
    assert_eq!(last["type"], "ERROR");
    assert_eq!(last["object"]["code"], 410);
}

/// What a test does to an object.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..5_u8, 0..3_u8).prop_map(|(name, app)| Step::Put(name, app)),
        1 => (0..5_u8).prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 1..30)
}

async fn run(c: &Caller, step: &Step) {
    match step {
        Step::Put(name, app) => {
            let name = format!("p{name}");
            let body = pod(&name, &format!("a{app}"));
            if c.put(&format!("{PODS}/{name}"), &body).await.status == 404 {
                c.post(PODS, &body).await.ok();
            }
        }
        Step::Delete(name) => {
            c.delete(&format!("{PODS}/p{name}")).await;
        }
    }
}

async fn list(c: &Caller, selector: &str) -> (BTreeMap<String, Value>, String) {
    let list = c.get(&format!("{PODS}{selector}")).await.ok();
    let items = list["items"].as_array().unwrap().iter();
    let items = items.map(|o| {
        (
            o["metadata"]["name"].as_str().unwrap().to_owned(),
            o.clone(),
        )
    });
    (items.collect(), revision(&list))
}

/// A store whose changes are seen late: by reading, and never by watching.
struct Late(Arc<dyn Store>);

#[async_trait]
impl Store for Late {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.0.get(key).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        self.0.list(request).await
    }

    async fn write(&self, key: &str, expect: Expect, write: Write) -> Result<Outcome, StoreError> {
        self.0.write(key, expect, write).await
    }

    async fn watch(&self, _: &str, _: Revision) -> Result<WatchStream, StoreError> {
        Ok(futures::stream::pending().boxed())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }
}

/// Who is woken by a watch's first state is not woken by that change again, so
/// what it then reads of the server's caches must not be older.
#[tokio::test]
async fn what_a_watch_has_shown_is_in_what_is_read_after_it() {
    let inner = store();
    let writer = Caller(
        ApiServer::builder(Arc::clone(&inner))
            .kinds(kinds())
            .build(),
    );
    let late = ApiServer::builder(Arc::new(Late(inner)))
        .kinds(kinds())
        .build();
    let pods = GroupResource::new("", "pods");
    let count = async || late.objects().list(&pods, "").await.unwrap().len();
    assert_eq!(count().await, 0);
    writer.post(PODS, &pod("a", "x")).await.ok();
    let mut watch = Lines::open(&Caller(late.clone()), &format!("{PODS}?watch=1")).await;
    assert_eq!(
        watch.next().await.unwrap()["object"]["metadata"]["name"],
        "a"
    );
    assert_eq!(count().await, 1);
    writer.post(PODS, &pod("b", "x")).await.ok();
    // Without a first state, from now on.
    let now = format!(
        "{PODS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion="
    );
    let _watch = Lines::open(&Caller(late.clone()), &now).await;
    assert_eq!(count().await, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_list_and_the_events_after_it_make_up_the_final_state(
        steps in steps(), cut in 0..30_usize, selected: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let c = Caller(server());
            // Revision 0 would mean "any".
            c.post("/api/v1/namespaces/other/pods", &pod("first", "x")).await.ok();
            let selector = if selected { "?labelSelector=app%3Da1" } else { "?x=y" };
            let cut = cut.min(steps.len());
            for step in &steps[..cut] {
                run(&c, step).await;
            }
            let (mut state, from) = list(&c, selector).await;
            for step in &steps[cut..] {
                run(&c, step).await;
            }
            // A last object that every selector admits shows the end.
            c.post(PODS, &pod("end", "a1")).await.ok();
            let (wanted, _) = list(&c, selector).await;
            let target = format!("{PODS}{selector}&watch=1&resourceVersion={from}");
            let mut watch = Lines::open(&c, &target).await;
            while !state.contains_key("end") {
                let event = watch.next().await.unwrap();
                let object = event["object"].clone();
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                match event["type"].as_str().unwrap() {
                    "ADDED" => assert!(state.insert(name, object).is_none()),
                    "MODIFIED" => assert!(state.insert(name, object).is_some()),
                    "DELETED" => assert!(state.remove(&name).is_some()),
                    other => panic!("{other}"),
                }
            }
            assert_eq!(state, wanted);
        });
    }
}
