//! Ranges of numbers, both ends included.

use std::net::Ipv4Addr;

/// Ranges in order, with a gap between each two.
pub type Ranges<T> = Vec<(T, T)>;

/// The same numbers as ranges in order.
pub fn merged<T: Copy + Ord + Into<u64>>(mut list: Vec<(T, T)>) -> Ranges<T> {
    list.retain(|(first, last)| first <= last);
    list.sort_unstable();
    let mut result: Vec<(T, T)> = Vec::new();
    for (first, last) in list {
        match result.last_mut() {
            Some((_, end)) if first.into() <= (*end).into() + 1 => *end = last.max(*end),
            _ => result.push((first, last)),
        }
    }
    result
}

/// Whether a number is in one of the ranges.
pub fn contain<T: Copy + Ord>(ranges: &[(T, T)], number: T) -> bool {
    ranges.iter().any(|(a, b)| (*a..=*b).contains(&number))
}

/// What is left of a range without others.
pub fn without(whole: (u32, u32), except: Vec<(u32, u32)>) -> Ranges<u32> {
    let mut left = Vec::new();
    let mut next = u64::from(whole.0);
    let end = u64::from(whole.1);
    for (first, last) in merged(except) {
        let (first, last) = (u64::from(first), u64::from(last));
        if last < next || first > end {
            continue;
        }
        push(&mut left, next, first);
        next = last + 1;
    }
    push(&mut left, next, end + 1);
    left
}

/// Adds the numbers from `first` up to and without `end`.
fn push(list: &mut Ranges<u32>, first: u64, end: u64) {
    if first < end
        && let (Ok(first), Ok(last)) = (u32::try_from(first), u32::try_from(end - 1))
    {
        list.push((first, last));
    }
}

/// The addresses of `10.0.0.0/8` and the like; `None` for other texts.
pub fn block(cidr: &str) -> Option<(u32, u32)> {
    let (address, prefix) = cidr.split_once('/')?;
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    let prefix: u32 = prefix.parse().ok().filter(|p| *p <= 32)?;
    let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
    Some((address & !hosts, address | hosts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_without_others() {
        let cut = |whole: &str, except: &[&str]| {
            let except = except.iter().map(|e| block(e).unwrap()).collect();
            let left = without(block(whole).unwrap(), except);
            let text = left
                .iter()
                .map(|(a, b)| format!("{}-{}", Ipv4Addr::from(*a), Ipv4Addr::from(*b)));
            text.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(cut("10.1.2.3/8", &[]), "10.0.0.0-10.255.255.255");
        assert_eq!(cut("0.0.0.0/0", &[]), "0.0.0.0-255.255.255.255");
        assert_eq!(
            cut(
                "10.0.0.0/24",
                &["10.0.0.0/25", "10.0.0.255/32", "9.0.0.0/8"]
            ),
            "10.0.0.128-10.0.0.254"
        );
        assert_eq!(cut("10.0.0.0/24", &["10.0.0.0/8"]), "");
        assert_eq!(
            cut("0.0.0.0/0", &["128.0.0.0/1"]),
            "0.0.0.0-127.255.255.255"
        );
        for text in ["::/0", "10.0.0.0", "10.0.0.0/33", "x/8", ""] {
            assert_eq!(block(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_merge() {
        let list = vec![(5_u16, 6), (1, 2), (3, 3), (8, 7), (u16::MAX, u16::MAX)];
        assert_eq!(merged(list), [(1, 3), (5, 6), (u16::MAX, u16::MAX)]);
        assert_eq!(merged(vec![(1_u16, 9), (2, 3)]), [(1, 9)]);
    }
}
