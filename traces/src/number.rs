//! Numbers as traces write them: lengths, ids, and times without a detour through floating point.

use crate::error::{Problem, excerpt};

/// Longest prompt or answer that is read, tokens. Above any model's context; a row that claims more is damaged,
/// and believing it would fill memory.
pub const MAX_TOKENS: u32 = 1 << 24;

/// Latest arrival and longest think time, ns; about 73 years: far from overflow whatever is added.
pub const MAX_TIME_NS: u64 = 1 << 61;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// What a time is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    Nanoseconds,
}

impl Unit {
    pub(crate) fn ns(self) -> u64 {
        match self {
            Self::Seconds => NS_PER_SECOND,
            Self::Milliseconds => 1_000_000,
            Self::Nanoseconds => 1,
        }
    }
}

/// A length in tokens.
pub(crate) fn tokens(text: &str) -> Result<u32, Problem> {
    // Some exporters write integers as 512.0.
    let digits = text.strip_suffix(".0").unwrap_or(text);
    match id(digits)? {
        value if value > MAX_TOKENS.into() => {
            Err(Problem::TooLarge { found: excerpt(text), limit: MAX_TOKENS.into() })
        }
        value => Ok(u32::try_from(value).expect("checked against MAX_TOKENS")),
    }
}

/// A non-negative integer.
pub(crate) fn id(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| {
        if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            Problem::TooLarge { found: excerpt(text), limit: u64::MAX }
        } else {
            complain(text, "a whole number")
        }
    })
}

/// A decimal time in `unit`, exact to the nanosecond; digits beyond are cut off.
pub(crate) fn time_ns(text: &str, unit: Unit) -> Result<u64, Problem> {
    let ns = match text.contains(['e', 'E']) {
        true => float_ns(text, unit)?,
        false => decimal_ns(text, unit)?,
    };
    if ns > MAX_TIME_NS {
        return Err(Problem::TooLarge { found: excerpt(text), limit: MAX_TIME_NS / unit.ns() });
    }
    Ok(ns)
}

fn decimal_ns(text: &str, unit: Unit) -> Result<u64, Problem> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(complain(text, "a time"));
    }
    let mut ns = whole.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit.ns());
    let mut digit_ns = unit.ns();
    for byte in fraction.bytes() {
        digit_ns /= 10;
        ns = ns.saturating_add(u64::from(byte - b'0') * digit_ns);
    }
    Ok(ns)
}

fn float_ns(text: &str, unit: Unit) -> Result<u64, Problem> {
    match text.parse::<f64>() {
        // `as` saturates, and the caller checks the range.
        Ok(value) if value >= 0.0 && value.is_finite() => Ok((value * unit.ns() as f64) as u64),
        _ => Err(complain(text, "a time")),
    }
}

/// `2023-11-16 18:17:03.9799600`, with `T` or a space, and with `Z`, `+00:00` or nothing behind it.
pub(crate) fn utc_ns(text: &str) -> Result<u64, Problem> {
    let malformed = || complain(text, "a UTC time such as 2023-11-16 18:17:03.9799600");
    let (moment, offset_s) = split_offset(text).ok_or_else(malformed)?;
    let (date, time) = moment.split_once([' ', 'T']).ok_or_else(malformed)?;
    let [year, month, day] = integers(date, '-').ok_or_else(malformed)?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = integers(clock, ':').ok_or_else(malformed)?;
    let in_range = (1970..=2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let local_s = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let seconds = u64::try_from(local_s - offset_s).map_err(|_| malformed())?;
    let fraction_ns = decimal_ns(&format!("0.{fraction}"), Unit::Seconds)?;
    Ok(seconds * NS_PER_SECOND + fraction_ns)
}

/// Separates `+hh:mm`, `-hh:mm` or `Z`, and gives it in seconds.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(moment) = text.strip_suffix('Z') {
        return Some((moment, 0));
    }
    // The date has dashes too: look behind it.
    let at = text.char_indices().skip(10).find(|(_, c)| ['+', '-'].contains(c));
    let Some((at, sign)) = at else { return Some((text, 0)) };
    let [hours, minutes] = integers(&text[at + 1..], ':')?;
    if hours > 14 || minutes > 59 {
        return None;
    }
    let offset_s = hours * 3600 + minutes * 60;
    Some((&text[..at], if sign == '-' { -offset_s } else { offset_s }))
}

fn integers<const N: usize>(text: &str, separator: char) -> Option<[i64; N]> {
    let mut values = [0; N];
    let mut parts = text.split(separator);
    for value in &mut values {
        let part = parts.next()?;
        // No sign, and too few digits to overflow anything.
        let plain = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        *value = plain.then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then_some(values)
}

/// Civil date to days, with years counted from March so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

fn complain(text: &str, expected: &'static str) -> Problem {
    let found = excerpt(text);
    match text.parse::<f64>() {
        Ok(value) if !value.is_finite() => Problem::NotFinite { found },
        Ok(value) if value < 0.0 => Problem::Negative { found },
        _ => Problem::Malformed { found, expected },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_times_are_exact() {
        assert_eq!(time_ns("61.114", Unit::Seconds).unwrap(), 61_114_000_000);
        assert_eq!(time_ns("27", Unit::Milliseconds).unwrap(), 27_000_000);
        assert_eq!(time_ns("0.0000000019", Unit::Seconds).unwrap(), 1);
        assert_eq!(time_ns("1.5e3", Unit::Milliseconds).unwrap(), 1_500_000_000);
    }

    #[test]
    fn bad_times_say_why() {
        assert!(matches!(time_ns("-1", Unit::Seconds), Err(Problem::Negative { .. })));
        assert!(matches!(time_ns("nan", Unit::Seconds), Err(Problem::NotFinite { .. })));
        assert!(matches!(time_ns("1e400", Unit::Seconds), Err(Problem::NotFinite { .. })));
        assert!(matches!(time_ns("9e30", Unit::Seconds), Err(Problem::TooLarge { .. })));
        assert!(matches!(time_ns("", Unit::Seconds), Err(Problem::Malformed { .. })));
    }

    #[test]
    fn utc_with_any_suffix() {
        let plain = utc_ns("2023-11-16 18:17:03.9799600").unwrap();
        assert_eq!(plain, 1_700_158_623_979_960_000);
        assert_eq!(utc_ns("2024-05-10 00:00:00.009930+00:00").unwrap(), 1_715_299_200_009_930_000);
        assert_eq!(utc_ns("2023-11-16T20:17:03.97996+02:00").unwrap(), plain);
        assert_eq!(utc_ns("2023-11-16 18:17:03.97996Z").unwrap(), plain);
        for bad in ["2023-11-16", "2023-13-16 00:00:00", "18:17", "2023-11-16 18:17:03.x"] {
            assert!(utc_ns(bad).is_err(), "{bad}");
        }
    }
}
