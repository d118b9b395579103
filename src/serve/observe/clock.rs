//! Times as text.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Nanoseconds since 1970 as RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(ns: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(ns.div_euclid(1_000_000_000));
    // Every i64 of nanoseconds lies in the years 1677 to 2262, which have such a text.
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_times_as_rfc3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (9_223_372_035, "2262-04-11T23:47:15Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000 + 999), text);
        }
        assert_eq!(rfc3339(i64::MIN), "1677-09-21T00:12:43Z");
    }
}
