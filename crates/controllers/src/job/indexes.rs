//! Sets of completion indexes, written as `0,2-5,9`.

use std::collections::BTreeSet;

/// Most indexes that are read from one text: the API allows a job no more.
const MAX: i64 = 100_000;

/// Reads a set; parts that make no sense or lie beyond `limit` are left out.
pub(super) fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse::<i32>())
        else {
            continue;
        };
        let last = last.min(limit.saturating_sub(1));
        if first < 0 || i64::from(last) - i64::from(first) > MAX {
            continue;
        }
        indexes.extend(first..=last);
    }
    indexes
}

/// Writes a set; two neighbours stand as `a,b`, more as `a-b`.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for &index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let parts = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts() {
        for (text, expected) in [
            ("", vec![]),
            ("3", vec![3]),
            ("0,2-4,9", vec![0, 2, 3, 4]),
            ("x,1-", vec![]),
            ("4-2", vec![]),
            ("0-2000000000", vec![0, 1, 2, 3, 4, 5]),
        ] {
            let parsed: Vec<i32> = parse(text, 6).into_iter().collect();
            assert_eq!(parsed, expected, "{text}");
        }
        assert_eq!(format(&[1, 2, 4, 5, 6, 9].into()), "1,2,4-6,9");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(indexes in proptest::collection::btree_set(0..500, 0..50)) {
            prop_assert_eq!(parse(&format(&indexes), 500), indexes);
        }
    }
}
