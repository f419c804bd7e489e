//! Lists of hosts in Slurm's notation: `node[01-10,15]`, `r[1-2]n[1-4]`, `login1,node[1-3]`.

use super::UnitError;

/// Maximum number of hosts, more than any machine has, so that a short text cannot fill the memory.
pub const MAX_HOSTS: usize = 1 << 17;

/// Expands an expression to its hosts, in order. Leading zeros are kept (`n[08-10]`).
pub fn expand_hosts(text: &str) -> Result<Vec<String>, UnitError> {
    let fail = |reason: String| UnitError::new("a list of hosts", text, reason);
    let mut hosts = Vec::new();
    for item in split_outside_brackets(text).map_err(fail)? {
        expand_item(item.trim(), &mut hosts).map_err(fail)?;
    }
    Ok(hosts)
}

/// Splits at commas outside of brackets.
fn split_outside_brackets(text: &str) -> Result<Vec<&str>, String> {
    let mut items = Vec::new();
    let mut start = 0;
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '[' if inside => return Err("a bracket opens inside another".into()),
            ']' if !inside => return Err("a bracket closes that was not opened".into()),
            '[' | ']' => inside = c == '[',
            ',' if !inside => {
                items.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("a bracket is not closed".into());
    }
    items.push(&text[start..]);
    Ok(items)
}

fn expand_item(item: &str, hosts: &mut Vec<String>) -> Result<(), String> {
    if item.is_empty() {
        return Err("a host between two commas is missing".into());
    }
    let mut names = vec![String::new()];
    let mut rest = item;
    while let Some((text, tail)) = rest.split_once('[') {
        let (ranges, tail) = tail.split_once(']').ok_or("a bracket is not closed")?;
        let mut numbers = Vec::new();
        for range in ranges.split(',') {
            expand_range(range.trim(), &mut numbers)?;
        }
        if names.len().saturating_mul(numbers.len()).saturating_add(hosts.len()) > MAX_HOSTS {
            return Err(format!("it names more than {MAX_HOSTS} hosts"));
        }
        names = names.iter().flat_map(|name| numbers.iter().map(move |n| format!("{name}{text}{n}"))).collect();
        rest = tail;
    }
    if hosts.len() + names.len() > MAX_HOSTS {
        return Err(format!("it names more than {MAX_HOSTS} hosts"));
    }
    hosts.extend(names.into_iter().map(|name| name + rest));
    Ok(())
}

fn expand_range(range: &str, numbers: &mut Vec<String>) -> Result<(), String> {
    let digits = |text: &str| match text.parse::<u64>() {
        Ok(n) if text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= 18 => Ok(n),
        _ => Err(format!("`{}` is not a range of numbers", super::shorten(range))),
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let width = first.len();
    let (first, last) = (digits(first)?, digits(last)?);
    if last < first {
        return Err(format!("`{range}` ends before it begins"));
    }
    if last - first >= MAX_HOSTS as u64 || numbers.len() > MAX_HOSTS {
        return Err(format!("it names more than {MAX_HOSTS} hosts"));
    }
    numbers.extend((first..=last).map(|n| format!("{n:0width$}")));
    Ok(())
}

/// A host name, split at its last number.
struct Split<'a> {
    prefix: &'a str,
    digits: &'a str,
    suffix: &'a str,
    number: u64,
}

fn split(host: &str) -> Option<Split<'_>> {
    let end = host.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = host[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    // The character before the digits may have several bytes.
    let start = (start..end).find(|&at| host.is_char_boundary(at))?;
    let digits = &host[start..end];
    let number = digits.parse().ok().filter(|_| digits.len() <= 18)?;
    Some(Split { prefix: &host[..start], digits, suffix: &host[end..], number })
}

/// True if a bracket with the width of `first` formats this number with exactly these digits.
fn continues(run: &[Split<'_>], next: &Split<'_>) -> bool {
    let (first, last) = (&run[0], &run[run.len() - 1]);
    let width = first.digits.len();
    next.prefix == first.prefix
        && next.suffix == first.suffix
        && last.number.checked_add(1) == Some(next.number)
        && format!("{:0width$}", next.number) == next.digits
}

/// Formats hosts compactly in their order; [`expand_hosts`] returns the same list.
///
/// Only adjacent hosts are joined, because their order may matter (rank 0 runs on the first).
pub fn compress_hosts<S: AsRef<str>>(hosts: &[S]) -> String {
    let mut items: Vec<String> = Vec::new();
    let mut at = 0;
    while at < hosts.len() {
        let Some(first) = split(hosts[at].as_ref()) else {
            items.push(hosts[at].as_ref().to_string());
            at += 1;
            continue;
        };
        let (mut ranges, affixes) = (Vec::new(), (first.prefix, first.suffix));
        let mut run = vec![first];
        at += 1;
        while let Some(next) = hosts.get(at).and_then(|h| split(h.as_ref())).filter(|n| (n.prefix, n.suffix) == affixes)
        {
            if !continues(&run, &next) {
                ranges.push(write_range(&run));
                run.clear();
            }
            run.push(next);
            at += 1;
        }
        ranges.push(write_range(&run));
        let single = ranges.len() == 1 && run.len() == 1;
        let (open, close) = if single { ("", "") } else { ("[", "]") };
        items.push(format!("{}{open}{}{close}{}", affixes.0, ranges.join(","), affixes.1));
    }
    items.join(",")
}

fn write_range(run: &[Split<'_>]) -> String {
    match run {
        [one] => one.digits.to_string(),
        [first, .., last] => format!("{}-{}", first.digits, last.digits),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn expands_what_slurm_writes() {
        assert_eq!(expand_hosts("node[01-03,15]").unwrap(), ["node01", "node02", "node03", "node15"]);
        assert_eq!(expand_hosts("a1,b[9-10]-ib").unwrap(), ["a1", "b9-ib", "b10-ib"]);
        assert_eq!(expand_hosts("r[1-2]n[1-2]").unwrap(), ["r1n1", "r1n2", "r2n1", "r2n2"]);
    }

    #[test]
    fn compresses_neighbours_only() {
        assert_eq!(compress_hosts(&["node01", "node02", "node04"]), "node[01-02,04]");
        assert_eq!(compress_hosts(&["n9", "n10", "login", "n1"]), "n[9-10],login,n1");
    }

    #[test]
    fn refuses_nonsense_and_is_bounded() {
        for text in
            ["", "a,", "n[1", "n1]", "n[[1]]", "n[2-1]", "n[x]", "n[1-999999999]", "n[1-99999]m[1-99999]", "n[]"]
        {
            assert!(expand_hosts(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_expands_back(hosts in prop::collection::vec("[a-cé]{0,2}[0-9]{1,3}(-ib)?|login", 1..40)) {
            prop_assert_eq!(expand_hosts(&compress_hosts(&hosts)).unwrap(), hosts);
        }

        #[test]
        fn no_text_panics(text in "[-0-9a\\[\\],]{0,24}|\\PC{0,12}") {
            if let Ok(hosts) = expand_hosts(&text) {
                let _ = compress_hosts(&hosts);
            }
        }
    }
}
