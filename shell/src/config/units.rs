//! Durations and sizes as people write them.
//!
//! Decides the notation only; bounds are `validate`'s business.

use std::time::Duration;

/// Reads `500ms`, `1.5s`, `2m`, `72h` or `3d`.
///
/// # Errors
/// What is wrong, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units: &[(&str, f64)] = &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let (number, unit) = split(text);
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "" => "a duration needs a unit, e.g. 500ms, 1.5s, 2m, 72h or 3d".into(),
            _ => format!("`{unit}` is not a unit of time; write ms, s, m, h or d"),
        });
    };
    let seconds = positive(number)? * factor;
    Duration::try_from_secs_f64(seconds).map_err(|_| "this duration is too long".into())
}

/// Reads `4096`, `64KiB`, `10MiB` or `1GiB`; `K`, `M`, `G` and `KB`, `MB`,
/// `GB` mean the same powers of 1024.
///
/// # Errors
/// What is wrong, in words.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("`{unit}` is not a unit of size; write KiB, MiB or GiB")),
    };
    let bytes = positive(number)? * f64::from(1u32 << (shift / 2)) * f64::from(1u32 << (shift / 2));
    // 2^53 is where an f64 stops counting every byte, far beyond any disk here.
    if bytes > 9_007_199_254_740_992.0 {
        return Err("this size is too large".into());
    }
    Ok(bytes as u64)
}

/// Reads a positive whole number; underscores may separate digits.
///
/// # Errors
/// What is wrong, in words.
pub fn count(text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse::<u32>() {
        Ok(n) if n > 0 => Ok(n as usize),
        _ => Err("this is not a whole number from 1 to 4294967295".into()),
    }
}

/// Writes a duration the shortest way that reads back as the same.
pub fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms > 1_000 => format!("{}s", ms as f64 / 1_000.0),
        None => format!("{ms}ms"),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_' || c == '-')).unwrap_or(text.len());
    (text[..at].trim(), text[at..].trim())
}

fn positive(number: &str) -> Result<f64, String> {
    match number.replace('_', "").parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok(n),
        Ok(_) => Err("it must be greater than zero".into()),
        Err(_) => Err("it does not begin with a number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("72h"), Ok(Duration::from_secs(72 * 3600)));
        assert_eq!(duration(" 2 m "), Ok(Duration::from_secs(120)));
        for bad in ["500", "ms", "-1s", "0s", "1 fortnight", "1e999s", "", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("10MiB"), Ok(10 << 20));
        assert_eq!(size("1.5k"), Ok(1536));
        assert_eq!(size("1 GB"), Ok(1 << 30));
        for bad in ["", "MiB", "1 PiB", "-1", "0", "9999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(count("1_000"), Ok(1000));
        assert!(count("0").is_err() && count("-1").is_err() && count("1.5").is_err());
    }

    #[test]
    fn shown_durations_read_back() {
        for text in ["500ms", "1.5s", "72h", "2m", "30s"] {
            assert_eq!(show_duration(duration(text).expect("legal")), text);
        }
    }
}
