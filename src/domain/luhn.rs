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

#[cfg(test)]
mod tests {
    use super::is_valid;
    use proptest::prelude::*;

    #[test]
    fn only_digits_that_add_up_are_valid() {
        assert!(is_valid("5561947986"));
        assert!(is_valid("79927398713"), "the example of the standard");
        assert!(!is_valid("1234567890"));
        assert!(!is_valid(""));
        assert!(!is_valid("556194-7986"));
    }

    proptest! {
        #[test]
        fn exactly_one_check_digit_fits(digits in "[0-9]{1,20}") {
            let fitting = (0..10).filter(|check| is_valid(&format!("{digits}{check}"))).count();
            prop_assert_eq!(fitting, 1);
        }
    }
}
