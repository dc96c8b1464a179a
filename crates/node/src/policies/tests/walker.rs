//! A reader of rulesets that knows as much of nftables as these use.

use std::net::Ipv4Addr;

use super::FORGED;
use crate::nft::Ruleset;
use crate::policies::ranges;

#[derive(Clone, Copy)]
pub struct Packet<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub protocol: &'a str,
    pub port: u16,
}

/// The base chains of a hook, in the order in which packets meet them.
pub fn base(rules: &Ruleset, hook: &str) -> Vec<&'static str> {
    let priority = |text: &str| -> Option<i32> {
        let (_, after) = text.split_once(&format!("hook {hook} priority "))?;
        after.split_once(';')?.0.parse().ok()
    };
    let found = rules.hooks.iter();
    let found = found.filter_map(|(chain, text)| Some((priority(text)?, *chain)));
    let mut found: Vec<(i32, &str)> = found.collect();
    found.sort_unstable();
    found.into_iter().map(|(_, chain)| chain).collect()
}

/// Whether the first packet of a connection passes a hook.
pub fn passes(rules: &Ruleset, hook: &str, packet: Packet<'_>) -> bool {
    let mut chains = base(rules, hook).into_iter();
    chains.all(|chain| walk(rules, chain, packet).unwrap_or(true))
}

fn walk(rules: &Ruleset, chain: &str, packet: Packet<'_>) -> Option<bool> {
    for rule in &rules.chains[chain] {
        let mut words = rule.split_whitespace().collect::<Vec<_>>();
        if words[0] == "ct" || rule.contains("ipv6") || rule.contains("\"lo\"") {
            continue;
        }
        if words[0] == "iifname" {
            if packet.from != FORGED && !packet.from.starts_with("10.244.") {
                continue;
            }
            words.drain(..2);
        }
        let verdict: Vec<&str>;
        if let Some(at) = words.iter().position(|w| *w == "vmap") {
            let key = if words[1] == "saddr" {
                packet.from
            } else {
                packet.to
            };
            let map = words[at + 1].trim_start_matches('@');
            let Some(found) = rules.maps[map].1.get(key) else {
                continue;
            };
            verdict = found.split_whitespace().collect();
        } else {
            let count = match words[words.len().saturating_sub(2)] {
                "goto" | "jump" => 2,
                _ => 1,
            };
            verdict = words.split_off(words.len() - count);
            if !matches(rules, &words, packet) {
                continue;
            }
        }
        match verdict[..] {
            ["accept"] => return Some(true),
            ["drop"] => return Some(false),
            ["goto", target] => return walk(rules, target, packet),
            ["jump", target] => {
                if let Some(end) = walk(rules, target, packet) {
                    return Some(end);
                }
            }
            _ => panic!("{rule}"),
        }
    }
    None
}

fn matches(rules: &Ruleset, words: &[&str], packet: Packet<'_>) -> bool {
    let text = words.join(" ");
    let member = |set: &str, value: &str| {
        rules.sets[set]
            .1
            .iter()
            .any(|element| within(value, element))
    };
    let (mut rest, mut good) = (text.as_str(), true);
    while !rest.is_empty() {
        let (subject, after) = [
            "ip saddr . ip daddr",
            "ip daddr . meta l4proto . th dport",
            "ip saddr",
            "ip daddr",
            "meta l4proto",
            "tcp dport",
            "udp dport",
            "sctp dport",
        ]
        .into_iter()
        .find_map(|s| Some((s, rest.strip_prefix(s)?.trim_start())))
        .unwrap_or_else(|| panic!("{rest}"));
        let (negated, after) = match after.strip_prefix("!= ") {
            Some(after) => (true, after),
            None => (false, after),
        };
        let (operand, after) = match after.strip_prefix("{ ") {
            Some(list) => list.split_once(" }").unwrap(),
            // One element of several parts, which comes last.
            None if subject.contains(" . ") && !after.starts_with('@') => (after, ""),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        let (value, right_protocol) = match subject {
            "ip saddr . ip daddr" => (format!("{} . {}", packet.from, packet.to), true),
            "ip daddr . meta l4proto . th dport" => (
                format!("{} . {} . {}", packet.to, packet.protocol, packet.port),
                true,
            ),
            "ip saddr" => (packet.from.to_owned(), true),
            "ip daddr" => (packet.to.to_owned(), true),
            "meta l4proto" => (packet.protocol.to_owned(), true),
            _ => (
                packet.port.to_string(),
                subject.starts_with(packet.protocol),
            ),
        };
        let holds = right_protocol
            && match operand.strip_prefix('@') {
                Some(set) => member(set, &value),
                None => operand.split(", ").any(|part| within(&value, part)),
            };
        good &= holds != negated;
        rest = after.trim_start();
    }
    good
}

fn within(value: &str, part: &str) -> bool {
    let number = |text: &str| -> Option<u64> {
        match text.parse::<Ipv4Addr>() {
            Ok(ip) => Some(u32::from(ip).into()),
            Err(_) => text.parse().ok(),
        }
    };
    if let Some((first, last)) = ranges::block(part) {
        return (u64::from(first)..=u64::from(last)).contains(&number(value).unwrap());
    }
    match part.split_once('-') {
        Some((a, b)) => (number(a)..=number(b)).contains(&number(value)),
        None => part == value,
    }
}
