//! The parts that all file formats of a data directory share: the version, little-endian numbers, numbers in file
//! names.

pub(super) const FORMAT_VERSION: u32 = 2;

/// Parses `%016x-%016x`. Accepts only the exact form in which it is written.
pub(super) fn parse_numbers(text: &str) -> Option<(u64, u64)> {
    let (first, second) = text.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let numbers = (number(first)?, number(second)?);
    (format!("{:016x}-{:016x}", numbers.0, numbers.1) == text).then_some(numbers)
}

/// The caller has checked the length.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The caller has checked the length.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
