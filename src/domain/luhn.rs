//! The Luhn checksum (ISO/IEC 7812-1, annex B), which Swedish organization numbers and bankgiro numbers end with.

/// Whether the digits, the check digit last, add up. False for anything but ASCII digits, and for none.
pub(super) fn is_valid(digits: &str) -> bool {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(position, byte)| {
            let doubled = u32::from(byte - b'0') << (position % 2);
            if doubled > 9 { doubled - 9 } else { doubled }
        })
        .sum();
    sum.is_multiple_of(10)
}
