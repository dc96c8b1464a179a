//! Paging, consistency at a revision, selectors and forms.

use coracle_apiserver::ApiServer;
use serde_json::json;

use crate::support::{Caller, kinds, server, store};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn fill(c: &Caller, count: usize) {
    for i in 0..count {
        let parity = if i % 2 == 0 { "even" } else { "odd" };
        let map = json!({"metadata": {"name": format!("m{i:03}"), "labels": {"p": parity}}});
        c.post(MAPS, &map).await.ok();
    }
}

fn names(list: &serde_json::Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn pages_are_consistent_at_the_revision_of_the_first() {
    let c = Caller(server());
    fill(&c, 7).await;
    let first = c.get(&format!("{MAPS}?limit=3")).await.ok();
    assert_eq!(names(&first), ["m000", "m001", "m002"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    c.delete(&format!("{MAPS}/m004")).await.ok();
    c.post(MAPS, &json!({"metadata": {"name": "m0035"}}))
        .await
        .ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = c
        .get(&format!("{MAPS}?limit=10&continue={token}"))
        .await
        .ok();
    assert_eq!(names(&rest), ["m003", "m004", "m005", "m006"]);
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert!(rest["metadata"].get("continue").is_none());
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    assert_eq!(names(&c.get(&exact).await.ok()).len(), 7);
    let (code, _) = c
        .get(&format!("{MAPS}?continue=zzz&limit=1"))
        .await
        .failed();
    assert_eq!(code, 400);
    let (code, text) = c
        .get(&format!("{MAPS}?resourceVersion=99999"))
        .await
        .failed();
    assert_eq!(
        (code, text.starts_with("Too large resource version: 99999")),
        (504, true)
    );
}

#[tokio::test]
async fn an_expired_token_comes_with_one_that_goes_on() {
    let store = store();
    let server = ApiServer::builder(store.clone()).kinds(kinds()).build();
    let c = Caller(server);
    fill(&c, 4).await;
    let first = c.get(&format!("{MAPS}?limit=2")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    c.delete(&format!("{MAPS}/m003")).await.ok();
    store
        .compact(store.revision().await.unwrap())
        .await
        .unwrap();
    let gone = c.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(gone.status, 410);
    assert_eq!(gone.body["reason"], "Expired");
    let token = gone.body["metadata"]["continue"].as_str().unwrap();
    let rest = c
        .get(&format!("{MAPS}?limit=9&continue={token}"))
        .await
        .ok();
    assert_eq!(names(&rest), ["m002"]);
    let exact = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    let (code, text) = c.get(&exact).await.failed();
    assert_eq!(code, 410);
    assert_eq!(
        text,
        "The resourceVersion for the provided list is too old."
    );
}

#[tokio::test]
async fn selectors_choose_and_large_lists_stream() {
    let c = Caller(server());
    fill(&c, 250).await;
    let all = c.get(MAPS).await.ok();
    assert_eq!(names(&all).len(), 250);
    let odd = c.get(&format!("{MAPS}?labelSelector=p%3Dodd")).await.ok();
    assert_eq!(names(&odd).len(), 125);
    let page = c
        .get(&format!("{MAPS}?labelSelector=p%3Dodd&limit=120"))
        .await
        .ok();
    assert_eq!(names(&page).len(), 120);
    let token = page["metadata"]["continue"].as_str().unwrap();
    assert!(page["metadata"].get("remainingItemCount").is_none());
    let next = format!("{MAPS}?labelSelector=p%3Dodd&limit=120&continue={token}");
    assert_eq!(names(&c.get(&next).await.ok()).len(), 5);
    let one = c
        .get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm007"))
        .await
        .ok();
    assert_eq!(names(&one), ["m007"]);
    let everywhere = c
        .get("/api/v1/configmaps?fieldSelector=metadata.name%3Dm007")
        .await;
    assert_eq!(names(&everywhere.ok()), ["m007"]);
    let (code, text) = c
        .get(&format!("{MAPS}?fieldSelector=spec.x%3Dy"))
        .await
        .failed();
    assert_eq!(
        (code, text.as_str()),
        (400, "field label not supported: spec.x")
    );
    let (code, _) = c
        .get(&format!("{MAPS}?labelSelector=a%3D%3D%3Db"))
        .await
        .failed();
    assert_eq!(code, 400);
}

#[tokio::test]
async fn objects_are_shown_as_tables_and_as_metadata() {
    let c = Caller(server());
    fill(&c, 2).await;
    let ask = |target: &str, accept: &str| {
        let mut request = Caller::request("GET", target, "", "");
        request
            .headers_mut()
            .insert("accept", accept.parse().unwrap());
        let c = c.clone();
        async move {
            use http_body_util::BodyExt;
            let body = c.send(request).await.into_body().collect().await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&body.to_bytes()).unwrap()
        }
    };
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let list = ask(MAPS, table).await;
    assert_eq!(list["kind"], "Table");
    assert_eq!(list["columnDefinitions"][0]["name"], "Name");
    assert_eq!(list["rows"][1]["cells"][0], "m001");
    assert_eq!(list["rows"][1]["object"]["kind"], "PartialObjectMetadata");
    let one = ask(&format!("{MAPS}/m001?includeObject=Object"), table).await;
    assert_eq!(one["rows"][0]["object"]["kind"], "ConfigMap");
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = ask(MAPS, metadata).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["labels"]["p"], "even");
    assert!(list["items"][0]["metadata"]["resourceVersion"].is_string());
}
