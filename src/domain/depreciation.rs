//! What a thing is worth on paper (ASSET-3): straight-line depreciation, an equal part of the cost for each full month.

use chrono::{Datelike, NaiveDate};
use rust_decimal::Decimal;

use super::money;

/// How a thing loses its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depreciation {
    pub cost: Decimal,
    /// What is left at the end; no more than the cost.
    pub residual_value: Decimal,
    /// The first day.
    pub from: NaiveDate,
    /// At least one.
    pub useful_life_months: u32,
}

impl Depreciation {
    /// Cost less what the full months since `from` have taken, with two decimals; the residual value from the end of its life on.
    pub fn book_value(&self, on: NaiveDate) -> Decimal {
        let life = self.useful_life_months.max(1);
        let elapsed = full_months(self.from, on).min(life);
        let residual = self.residual_value.min(self.cost);
        let loss = self.cost.saturating_sub(residual);
        // Multiplied first: a third of 100 three times is 100.
        let lost = loss.checked_mul(elapsed.into()).map_or_else(
            || (loss / Decimal::from(life)).saturating_mul(elapsed.into()),
            |parts| parts / Decimal::from(life),
        );
        money::round(self.cost.saturating_sub(lost).max(residual))
    }
}

/// Months that have passed in full; none before `from`. A month that begins on the 31st is over on the last day of a shorter one.
fn full_months(from: NaiveDate, on: NaiveDate) -> u32 {
    if on <= from {
        return 0;
    }
    let months = i64::from(on.year() - from.year()) * 12 + i64::from(on.month()) - i64::from(from.month());
    let last_of_month = on.succ_opt().is_none_or(|next| next.month() != on.month());
    let over = on.day() >= from.day() || last_of_month;
    u32::try_from(months - i64::from(!over)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::dec;

    use super::*;

    fn day(year: i32, month: u32, day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(year, month, day).unwrap()
    }

    /// ASSET-3
    #[test]
    fn a_laptop_loses_the_same_each_month_until_its_residual_value_is_left() {
        let laptop = Depreciation {
            cost: dec!(19000),
            residual_value: dec!(1000),
            from: day(2026, 1, 15),
            useful_life_months: 36,
        };
        for (on, value) in [
            (day(2025, 6, 1), "19000.00"),
            (day(2026, 1, 15), "19000.00"),
            (day(2026, 2, 14), "19000.00"),
            (day(2026, 2, 15), "18500.00"),
            (day(2027, 1, 15), "13000.00"),
            (day(2028, 12, 15), "1500.00"),
            (day(2029, 1, 15), "1000.00"),
            (day(2050, 1, 1), "1000.00"),
        ] {
            assert_eq!(laptop.book_value(on).to_string(), value, "{on}");
        }
    }

    /// ASSET-3
    #[test]
    fn a_month_that_begins_on_the_last_day_ends_on_the_last_day() {
        let from = day(2026, 1, 31);
        for (on, months) in [
            (day(2026, 2, 27), 0),
            (day(2026, 2, 28), 1),
            (day(2026, 3, 30), 1),
            (day(2026, 3, 31), 2),
            (day(2028, 2, 28), 24),
            (day(2028, 2, 29), 25),
        ] {
            assert_eq!(full_months(from, on), months, "{on}");
        }
    }

    /// ASSET-3: öre are lost neither on the way nor at the end.
    #[test]
    fn what_cannot_be_divided_evenly_is_rounded_and_ends_exactly() {
        let thing =
            Depreciation { cost: dec!(100), residual_value: dec!(0), from: day(2026, 1, 1), useful_life_months: 3 };
        let values = [2, 3, 4].map(|month| thing.book_value(day(2026, month, 1)).to_string());
        assert_eq!(values, ["66.67", "33.33", "0.00"]);
        let odd = Depreciation { residual_value: dec!(500), ..thing };
        assert_eq!(odd.book_value(day(2026, 2, 1)), dec!(100), "a residual value beyond the cost loses nothing");
        let huge = Depreciation { cost: Decimal::MAX, useful_life_months: 1200, ..thing };
        assert!(huge.book_value(day(2030, 1, 1)) < Decimal::MAX);
    }

    proptest! {
        /// ASSET-3
        #[test]
        fn a_book_value_never_rises_and_stays_between_cost_and_residual_value(
            cost in 0i64..10_000_000_000, residual in 0i64..10_000_000_000, life in 1u32..=1200,
            start in 700_000i32..750_000, days in proptest::collection::vec(-400i32..40_000, 2..10),
        ) {
            let cost = Decimal::new(cost, 2);
            let residual_value = Decimal::new(residual, 2).min(cost);
            let from = NaiveDate::from_num_days_from_ce_opt(start).unwrap();
            let thing = Depreciation { cost, residual_value, from, useful_life_months: life };
            let mut days = days;
            days.sort_unstable();
            let mut before = cost;
            for after in days {
                let on = NaiveDate::from_num_days_from_ce_opt(start + after).unwrap();
                let value = thing.book_value(on);
                prop_assert!(value <= before, "{} rose to {}", before, value);
                prop_assert!((residual_value..=cost).contains(&value), "{}", value);
                prop_assert_eq!(value.scale(), 2);
                before = value;
            }
            prop_assert_eq!(thing.book_value(from), cost);
            let end = from.checked_add_months(chrono::Months::new(life)).unwrap();
            prop_assert_eq!(thing.book_value(end), residual_value);
        }

        /// ASSET-3: each month takes the same, but for the rounding of an öre.
        #[test]
        fn the_steps_are_equal(cost in 1i64..10_000_000_000, life in 1u32..=600, start in 700_000i32..750_000) {
            let cost = Decimal::new(cost, 2);
            let from = NaiveDate::from_num_days_from_ce_opt(start).unwrap();
            let thing = Depreciation { cost, residual_value: Decimal::ZERO, from, useful_life_months: life };
            let step = cost / Decimal::from(life);
            for month in 1..=life {
                let [before, after] = [month - 1, month]
                    .map(|months| thing.book_value(from.checked_add_months(chrono::Months::new(months)).unwrap()));
                prop_assert!((before - after - step).abs() <= dec!(0.011), "month {}: {} to {}", month, before, after);
            }
        }
    }
}
