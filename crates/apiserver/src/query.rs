//! Query parameters and the option structs of `meta.k8s.io/v1` made of them.

use std::time::Duration;

use coracle_machinery::{ApiError, FieldError, FieldPath, GroupKind};
use coracle_store::Revision;

/// Parameters of one request: more than any client sends.
const MAX_PARAMETERS: usize = 256;
/// The longest time a watch may ask for: a day.
const MAX_TIMEOUT_SECONDS: u64 = 86_400;

/// The parameters of a query string, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c`.
    ///
    /// # Errors
    /// `BadRequest` if there are too many.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|p| !p.is_empty()) {
            if pairs.len() == MAX_PARAMETERS {
                return Err(ApiError::bad_request("too many query parameters"));
            }
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((percent_decode(key, true), percent_decode(value, true)));
        }
        Ok(Self(pairs))
    }

    /// The first value of a parameter; empty ones count as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(key, _)| key == name)?.1.as_str();
        (!value.is_empty()).then_some(value)
    }

    /// All values of a parameter.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        let wanted = move |pair: &&(String, String)| pair.0 == name;
        self.0.iter().filter(wanted).map(|pair| pair.1.as_str())
    }

    /// A switch: given, and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    /// A switch that may be absent.
    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        let value = &self.0.iter().find(|(key, _)| key == name)?.1;
        Some(!(value.eq_ignore_ascii_case("false") || value == "0"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!("invalid value \"{text}\" for parameter {name}"))
        })
    }

    /// `gracePeriodSeconds` and the like.
    ///
    /// # Errors
    /// `BadRequest` if it is not a number.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.number(name)
    }
}

/// Decodes `%XX` (and `+` in queries); what is not an escape stays.
pub fn percent_decode(text: &str, plus_is_space: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How `resourceVersion` is meant in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The latest state.
    Latest,
    /// Any state will do.
    Any,
    /// A state at least as new.
    NotOlderThan(Revision),
    /// Exactly that state.
    Exact(Revision),
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From the latest state, which is sent first.
    State {
        /// The state must be at least as new as this revision.
        at_least: Revision,
        /// Mark its end with a bookmark.
        mark_end: bool,
    },
    /// With the changes after this revision.
    After(Revision),
    /// With the changes from now on, without the present state.
    Now,
}

/// `ListOptions`.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// `labelSelector`, as text.
    pub label_selector: String,
    /// `fieldSelector`, as text.
    pub field_selector: String,
    /// Which state a list shows.
    pub matching: Match,
    /// At most this many items.
    pub limit: Option<usize>,
    /// `continue`, as the client sent it.
    pub continue_token: Option<String>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `timeoutSeconds`.
    pub timeout: Option<Duration>,
    revision: Option<Revision>,
    send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the options of a list or (with `watch`) of a watch.
    ///
    /// # Errors
    /// `BadRequest` for what cannot be read, `Invalid` for combinations that
    /// make no sense.
    pub fn parse(query: &Query, watch: bool) -> Result<Self, ApiError> {
        let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
        let version = text("resourceVersion");
        let revision = parse_revision(&version)?;
        let limit = query
            .integer("limit")?
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0);
        let timeout = query
            .integer("timeoutSeconds")?
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| *n > 0)
            .map(|n| Duration::from_secs(n.min(MAX_TIMEOUT_SECONDS)));
        let continue_token = query.get("continue").map(str::to_owned);
        let rule = text("resourceVersionMatch");
        let send_initial_events = query.optional_flag("sendInitialEvents");
        check(
            watch,
            &version,
            &rule,
            continue_token.is_some(),
            send_initial_events,
        )?;
        let matching = match (rule.as_str(), revision) {
            (_, None) => Match::Latest,
            (_, Some(0)) => Match::Any,
            ("Exact", Some(n)) => Match::Exact(n),
            // A page at a revision without a rule has always been exact.
            ("", Some(n)) if limit.is_some() && !watch => Match::Exact(n),
            (_, Some(n)) => Match::NotOlderThan(n),
        };
        Ok(Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            matching,
            limit,
            continue_token,
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout,
            revision,
            send_initial_events,
        })
    }

    /// Where a watch with these options starts.
    pub fn start(&self) -> Start {
        let at_least = self.revision.unwrap_or(0);
        match (self.send_initial_events, at_least) {
            (Some(true), _) => Start::State {
                at_least,
                mark_end: self.bookmarks,
            },
            (Some(false), 0) => Start::Now,
            (None, 0) => Start::State {
                at_least,
                mark_end: false,
            },
            (_, after) => Start::After(after),
        }
    }
}

/// A `resourceVersion`; `None` if it is empty.
///
/// # Errors
/// `BadRequest` if it is not a number.
pub fn parse_revision(text: &str) -> Result<Option<Revision>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!(
            "Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

fn check(
    watch: bool,
    version: &str,
    rule: &str,
    continued: bool,
    send_initial_events: Option<bool>,
) -> Result<(), ApiError> {
    let rule_path = FieldPath::new("resourceVersionMatch");
    let events_path = FieldPath::new("sendInitialEvents");
    let mut errors = Vec::new();
    let mut forbid = |path: &FieldPath, why: &str| errors.push(FieldError::forbidden(path, why));
    if watch {
        if send_initial_events.is_some() && rule != "NotOlderThan" {
            forbid(
                &rule_path,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        if send_initial_events.is_none() && !rule.is_empty() {
            forbid(
                &rule_path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
    } else {
        if send_initial_events.is_some() {
            forbid(&events_path, "sendInitialEvents is forbidden for list");
        }
        if !rule.is_empty() {
            if version.is_empty() {
                forbid(
                    &rule_path,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if continued {
                forbid(
                    &rule_path,
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
            if !matches!(rule, "Exact" | "NotOlderThan") {
                let supported = &["Exact", "NotOlderThan", ""];
                errors.push(FieldError::not_supported(&rule_path, rule, supported));
            } else if rule == "Exact" && version == "0" {
                errors.push(FieldError::forbidden(
                    &rule_path,
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        let kind = GroupKind::new("meta.k8s.io", "ListOptions");
        Err(ApiError::invalid(&kind, "", &errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query: &str, watch: bool) -> Result<ListOptions, ApiError> {
        ListOptions::parse(&Query::parse(query).unwrap(), watch)
    }

    #[test]
    fn lists_choose_their_state_as_upstream() {
        for (query, wanted) in [
            ("", Match::Latest),
            ("resourceVersion=0", Match::Any),
            ("resourceVersion=0&limit=5", Match::Any),
            ("resourceVersion=7", Match::NotOlderThan(7)),
            ("resourceVersion=7&limit=5", Match::Exact(7)),
            (
                "resourceVersion=7&limit=5&resourceVersionMatch=NotOlderThan",
                Match::NotOlderThan(7),
            ),
            (
                "resourceVersion=7&resourceVersionMatch=Exact",
                Match::Exact(7),
            ),
        ] {
            assert_eq!(options(query, false).unwrap().matching, wanted, "{query}");
        }
        for query in [
            "resourceVersion=x",
            "resourceVersionMatch=Exact",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersion=1&resourceVersionMatch=Newest",
            "sendInitialEvents=true",
            "continue=x&resourceVersion=1&resourceVersionMatch=Exact",
        ] {
            assert!(options(query, false).is_err(), "{query}");
        }
    }

    #[test]
    fn watches_choose_their_start_as_upstream() {
        let state = |at_least, mark_end| Start::State { at_least, mark_end };
        for (query, wanted) in [
            ("", state(0, false)),
            ("resourceVersion=0", state(0, false)),
            ("resourceVersion=9", Start::After(9)),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                state(0, true),
            ),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=4",
                state(4, false),
            ),
            (
                "sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
                Start::Now,
            ),
        ] {
            assert_eq!(options(query, true).unwrap().start(), wanted, "{query}");
        }
        assert!(options("sendInitialEvents=true", true).is_err());
        assert!(options("resourceVersionMatch=Exact&resourceVersion=1", true).is_err());
    }

    #[test]
    fn percent_escapes() {
        assert_eq!(percent_decode("a%2Fb+c%", true), "a/b c%");
        assert_eq!(percent_decode("a+b%zz", false), "a+b%zz");
    }
}
