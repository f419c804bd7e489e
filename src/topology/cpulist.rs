//! Lists of CPUs as the kernel and Slurm write them: `0-3,8`.

use std::fmt::Write;

/// Larger than the CPU numbers of any kernel: a range beyond it is refused rather than expanded.
const MAX_CPU: u32 = 1 << 16;

/// Formats `[0, 1, 2, 3, 8]` as `0-3,8`. Ranges are found in the given order; nothing is sorted.
pub fn format_cpus(cpus: &[u32]) -> String {
    let mut text = String::new();
    let mut rest = cpus;
    while let Some(&first) = rest.first() {
        let run = rest.iter().zip(u64::from(first)..).take_while(|(cpu, want)| u64::from(**cpu) == *want).count();
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match run {
            1 => write!(text, "{comma}{first}"),
            _ => write!(text, "{comma}{first}-{}", rest[run - 1]),
        };
        rest = &rest[run..];
    }
    text
}

/// Parses `0-3,8` as `[0, 1, 2, 3, 8]`; `None` if the text is not such a list.
pub fn parse_cpus(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',').map(str::trim).filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
        if cpus.len() > MAX_CPU as usize {
            return None;
        }
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_the_kernel_writes_them() {
        assert_eq!(format_cpus(&[0, 1, 2, 3, 8]), "0-3,8");
        assert_eq!(format_cpus(&[5]), "5");
        assert_eq!(format_cpus(&[]), "");
        assert_eq!(format_cpus(&[3, 1, 2]), "3,1-2");
        assert_eq!(format_cpus(&[u32::MAX]), "4294967295");
    }

    #[test]
    fn lists_are_read_back_and_nonsense_is_refused() {
        assert_eq!(parse_cpus("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_cpus(""), Some(vec![]));
        for bad in ["3-1", "a", "0-4000000000", "1-2-3", "-", "0-65535,0-65535"] {
            assert_eq!(parse_cpus(bad), None, "{bad}");
        }
    }
}
