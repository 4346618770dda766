//! Kubernetes quantities, as far as limits need them: read and compared, never computed with.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths, rounded up; `None` where it is no quantity, or negative. (Grammar: apimachinery, `resource.Quantity`.)
#[must_use]
pub fn thousandths(quantity: &Quantity) -> Option<u128> {
    let text = quantity.0.as_str();
    let digits = text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(digits)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || number.len() > 20 || fraction.contains('.') {
        return None;
    }
    let (factor, divisor): (u128, u128) = match suffix {
        "" => (1000, 1),
        "m" => (1, 1),
        "u" => (1, 1000),
        "n" => (1, 1_000_000),
        "k" => (10_u128.pow(6), 1),
        "M" => (10_u128.pow(9), 1),
        "G" => (10_u128.pow(12), 1),
        "T" => (10_u128.pow(15), 1),
        "P" => (10_u128.pow(18), 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (1000 * 10_u128.checked_pow(exponent.min(16))?, 1)
        }
    };
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    Some(digits.checked_mul(factor)?.div_ceil(scale.checked_mul(divisor)?))
}

/// The smaller of two quantities; the second where the first cannot be read.
#[must_use]
pub fn smaller(one: &Quantity, other: &Quantity) -> Quantity {
    match (thousandths(one), thousandths(other)) {
        (Some(first), Some(second)) if first <= second => one.clone(),
        _ => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_thousandths() {
        for (text, value) in [
            ("1", 1000),
            ("500m", 500),
            ("1.5", 1500),
            ("0.5Gi", 1000 << 29),
            ("2Gi", 2000 << 30),
            ("1e3", 1_000_000),
            ("1u", 1),
            (".5", 500),
            ("4G", 4_000_000_000_000),
        ] {
            assert_eq!(thousandths(&Quantity(text.into())), Some(value), "{text}");
        }
        for text in ["", "x", "-1", "1.2.3", "1Xi", "Gi", ".", "1e", "1e-3"] {
            assert_eq!(thousandths(&Quantity(text.into())), None, "{text}");
        }
        let quantity = |text: &str| Quantity(text.into());
        assert_eq!(smaller(&quantity("1Gi"), &quantity("1G")), quantity("1G"));
        assert_eq!(smaller(&quantity("100m"), &quantity("1")), quantity("100m"));
    }
}
