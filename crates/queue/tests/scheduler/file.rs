//! The file of schedules.

use backroom_queue::scheduler::{self, Schedules};
use chrono::DateTime;
use chrono_tz::Tz;

use crate::{at, kinds, schedules};

/// CRON-1
#[test]
fn an_invalid_file_names_the_line_and_the_schedule() {
    let file = |lines: &str| format!("# ours\n\n[[schedule]]\nname = \"first\"\nkind = \"test.tidy\"\n{lines}\n");
    for (lines, line, schedule, message) in [
        ("cron = \"61 * * * *\"", 6, Some("first"), "is not a cron expression"),
        ("cron = \"0 0 30 2 *\"", 6, Some("first"), "there is no such day"),
        ("cron = \"0 9 * * *\"\ntime_zone = \"Europe/Stokholm\"", 7, Some("first"), "no time zone \"Europe/Stokholm\""),
        ("cron = \"0 9 * * *\"\nper_tenant = true\ntime_zone = \"UTC\"", 8, Some("first"), "remove time_zone"),
        ("cron = \"0 9 * * *\"\nmised = \"skip\"", 7, Some("first"), "unknown field `mised`"),
        ("cron = \"0 9 * * *\"\nmissed = \"never\"", 7, Some("first"), "unknown variant `never`"),
        ("cron = \"0 9 * * *\"\noverlap = \"cancel\"", 7, Some("first"), "unknown variant `cancel`"),
        ("cron = \"0 9 * * *\"\noverlap = true", 7, Some("first"), ""),
        ("cron = \"0 9 * * *\"\nargs = { depth = 999 }", 7, Some("first"), "at depth: invalid value"),
        ("cron = \"0 9 * * *\"\n[schedule.args]\ndepth = 1\ndeep = 2", 9, Some("first"), "unknown field `deep`"),
        (
            "cron = \"0 9 * * *\"\n[[schedule]]\nname = \"first\"\nkind = \"test.tidy\"\ncron = \"@daily\"",
            8,
            Some("first"),
            "unique",
        ),
        (
            "cron = \"0 9 * * *\"\n[[schedule]]\nname = \"second\"\nkind = \"test.none\"\ncron = \"@daily\"",
            9,
            Some("second"),
            "known are test.end, test.sweep, test.tidy",
        ),
        (
            "cron = \"0 9 * * *\"\n[[schedule]]\nname = \"second\"\ncron = \"@daily\"",
            7,
            Some("second"),
            "missing field `kind`",
        ),
        (
            "cron = \"0 9 * * *\"\n[[schedule]]\nname = \"A b\"\nkind = \"test.tidy\"\ncron = \"@daily\"",
            8,
            Some("A b"),
            "a name is",
        ),
        ("cron = 0 9", 6, None, ""),
        ("cron = \"0 9 * * *\"\n[[schedules]]", 7, Some("first"), "unknown field `schedules`"),
    ] {
        let error = Schedules::parse(&file(lines), &kinds()).unwrap_err();
        assert_eq!((error.line, error.schedule.as_deref()), (line, schedule), "{lines}: {error}");
        assert!(error.message.contains(message), "{lines}: {error}");
        assert!(error.to_string().starts_with(&format!("line {line}: ")), "{error}");
    }
}

/// CRON-1
#[test]
fn a_valid_file_gives_its_schedules_in_order() {
    let all = schedules(
        "[[schedule]]\nname = \"b\"\nkind = \"test.tidy\"\ncron = \"0 9 * * mon-fri\"\nargs = { depth = 3 }\n\
         time_zone = \"Europe/Stockholm\"\n[[schedule]]\nname = \"a\"\nkind = \"test.sweep\"\ncron = \"@hourly\"\nper_tenant = true",
    );
    let summary: Vec<_> = all.iter().map(|s| (s.name.as_str(), s.kind(), s.time_zone, s.args().to_string())).collect();
    assert_eq!(
        summary,
        [
            ("b", "test.tidy", Some(Tz::Europe__Stockholm), r#"{"depth":3}"#.to_owned()),
            ("a", "test.sweep", None, "{}".to_owned()),
        ]
    );
    let friday = at("2026-03-27T12:00:00Z");
    let next = scheduler::next_firings(all.get("b").unwrap(), Tz::Europe__Stockholm, friday, 2);
    // The clock changes between the two.
    assert_eq!(next.map_to_string(), ["2026-03-30T09:00:00+02:00", "2026-03-31T09:00:00+02:00"]);
    assert!(schedules("").iter().next().is_none());
}

trait MapToString {
    fn map_to_string(&self) -> Vec<String>;
}

impl MapToString for Vec<DateTime<Tz>> {
    fn map_to_string(&self) -> Vec<String> {
        self.iter().map(DateTime::to_rfc3339).collect()
    }
}
