//! Random sequences of calls, compared with a store that is one list of
//! events.

use proptest::prelude::*;

use super::*;

/// The store as it should be.
#[derive(Default)]
struct Model {
    /// The event of revision `n` is at `n - 1`.
    history: Vec<Event>,
    compacted: Revision,
}

#[derive(Clone, Debug)]
enum Call {
    Write(usize, Wanted, bool),
    List {
        prefix: usize,
        after: Option<usize>,
        limit: Option<usize>,
        back: Option<Revision>,
    },
    Watch {
        prefix: usize,
        back: Revision,
    },
    Compact {
        back: Revision,
    },
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Absent,
    Current,
    Stale,
    Anything,
}

const KEYS: [&str; 5] = ["a/1", "a/2", "a/2/b", "b/1", "c"];
const PREFIXES: [&str; 5] = ["", "a/", "a/2", "b/", "d"];

fn call() -> impl Strategy<Value = Call> {
    let wanted = prop_oneof![
        1 => Just(Wanted::Absent),
        3 => Just(Wanted::Current),
        1 => Just(Wanted::Stale),
        2 => Just(Wanted::Anything),
    ];
    let write = (0..KEYS.len(), wanted, prop::bool::weighted(0.3))
        .prop_map(|(key, wanted, deletes)| Call::Write(key, wanted, deletes));
    let list = (
        0..PREFIXES.len(),
        prop::option::of(0..KEYS.len()),
        prop::option::of(0..4usize),
        prop::option::of(0..12u64),
    )
        .prop_map(|(prefix, after, limit, back)| Call::List {
            prefix,
            after,
            limit,
            back,
        });
    let watch =
        (0..PREFIXES.len(), 0..12u64).prop_map(|(prefix, back)| Call::Watch { prefix, back });
    let compact = (0..8u64).prop_map(|back| Call::Compact { back });
    prop_oneof![8 => write, 4 => list, 2 => watch, 1 => compact]
}

/// Runs random sequences against fresh stores.
pub fn agrees<S: Store, K>(constructor: fn() -> (S, K)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(calls in prop::collection::vec(call(), 1..60))| {
        runtime.block_on(async {
            let (store, _keep) = constructor();
            let mut model = Model::default();
            for call in calls {
                run(&store, &mut model, call).await;
            }
        });
    });
}

async fn run(store: &impl Store, model: &mut Model, call: Call) {
    match call {
        Call::Write(key, wanted, deletes) => {
            let key = KEYS[key];
            let current = model.get(key, model.latest());
            let current_revision = current.as_ref().map_or(0, |kv| kv.mod_revision);
            let expect = match wanted {
                Wanted::Absent => Expect::Absent,
                Wanted::Current => Expect::Revision(current_revision),
                Wanted::Stale => Expect::Revision(current_revision + 1),
                Wanted::Anything => Expect::Anything,
            };
            let value = (!deletes).then(|| format!("value {}", model.latest()));
            let write = value.as_deref().map_or(Write::Delete, put);
            let expected = model.write(key, expect, value);
            let outcome = store.write(key, expect, write).await.unwrap();
            assert_eq!(format!("{outcome:?}"), format!("{expected:?}"));
            assert_eq!(
                store.get(key).await.unwrap(),
                model.get(key, model.latest())
            );
            assert_eq!(store.revision().await.unwrap(), model.latest());
        }
        Call::List {
            prefix,
            after,
            limit,
            back,
        } => {
            let mut request = ListRequest {
                count: true,
                prefix: PREFIXES[prefix].to_owned(),
                after: after.map(|key| KEYS[key].to_owned()),
                limit,
                revision: back.map(|back| (model.latest() + 2).saturating_sub(back)),
            };
            let expected = model.list(&request);
            let page = store.list(request.clone()).await;
            request.count = false;
            if let (Ok(page), Ok(uncounted)) = (&page, store.list(request).await) {
                assert_eq!(uncounted.items, page.items);
                assert_eq!(uncounted.remaining, page.remaining.min(1));
            }
            match (page, expected) {
                (Ok(page), Ok((items, remaining))) => {
                    assert_eq!((page.items, page.remaining), (items, remaining));
                }
                (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
                other => panic!("{other:?}"),
            }
        }
        Call::Watch { prefix, back } => {
            let after = model.latest().saturating_sub(back);
            check_watch(store, model, PREFIXES[prefix], after).await;
        }
        Call::Compact { back } => {
            let revision = model.latest().saturating_sub(back);
            store.compact(revision).await.unwrap();
            model.compacted = model.compacted.max(revision);
        }
    }
}

async fn check_watch(store: &impl Store, model: &Model, prefix: &str, after: Revision) {
    let stream = store.watch(prefix, after).await;
    if let Err(expected) = model.check(after) {
        assert_eq!(stream.err().map(|error| error.to_string()), Some(expected));
        return;
    }
    let expected: Vec<&Event> = model.history[after as usize..]
        .iter()
        .filter(|event| event.entry.key.starts_with(prefix))
        .collect();
    let Some(last) = expected.last() else { return };
    let mut stream = stream.expect("the model can be watched from there");
    let events = events_until(&mut stream, last.entry.mod_revision).await;
    assert_eq!(format!("{events:?}"), format!("{expected:?}"));
}

impl Model {
    fn latest(&self) -> Revision {
        self.history.len() as Revision
    }

    fn check(&self, requested: Revision) -> Result<(), String> {
        let (oldest, latest) = (self.compacted, self.latest());
        let error = if requested < oldest {
            StoreError::Compacted { requested, oldest }
        } else if requested > latest {
            StoreError::Future { requested, latest }
        } else {
            return Ok(());
        };
        Err(error.to_string())
    }

    fn get(&self, key: &str, revision: Revision) -> Option<KeyValue> {
        let known = &self.history[..revision as usize];
        let last = known.iter().rev().find(|event| event.entry.key == key)?;
        (!last.deleted).then(|| last.entry.clone())
    }

    fn write(&mut self, key: &str, expect: Expect, value: Option<String>) -> Outcome {
        let current = self.get(key, self.latest());
        let holds = match expect {
            Expect::Absent => current.is_none(),
            Expect::Revision(wanted) => current.as_ref().map(|kv| kv.mod_revision) == Some(wanted),
            Expect::Anything => true,
        };
        if !holds || (current.is_none() && value.is_none()) {
            return Outcome::Mismatch { current };
        }
        let revision = self.latest() + 1;
        let created = current.as_ref().map_or(revision, |kv| kv.create_revision);
        self.history.push(Event {
            entry: entry(key, value.as_deref().unwrap_or(""), created, revision),
            previous: current.clone(),
            deleted: value.is_none(),
        });
        Outcome::Done {
            revision,
            previous: current,
        }
    }

    fn list(&self, request: &ListRequest) -> Result<(Vec<KeyValue>, usize), String> {
        let revision = request.revision.unwrap_or(self.latest());
        self.check(revision)?;
        let after = request.after.as_deref().unwrap_or("");
        let mut items: Vec<KeyValue> = KEYS
            .iter()
            .filter(|key| key.starts_with(&request.prefix) && **key > after)
            .filter_map(|key| self.get(key, revision))
            .collect();
        let limit = request.limit.unwrap_or(items.len()).min(items.len());
        let remaining = items.split_off(limit).len();
        Ok((items, remaining))
    }
}
