//! A measure of how even the load of ranks is.

/// Mean over maximum of busy time per unit of capacity, from 0 (one rank does everything) to 1 (all
/// ranks are equally busy). `loads` are pairs of busy time and capacity.
pub fn balance_of(loads: &[(f64, f64)]) -> f64 {
    let shares: Vec<f64> = loads.iter().filter(|(_, capacity)| *capacity > 0.0).map(|(busy, c)| busy / c).collect();
    let most = shares.iter().copied().fold(0.0, f64::max);
    if most > 0.0 { shares.iter().sum::<f64>() / shares.len() as f64 / most } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_by_hand() {
        assert_eq!(balance_of(&[(10.0, 1.0), (10.0, 1.0)]), 1.0);
        assert_eq!(balance_of(&[(10.0, 1.0), (0.0, 1.0)]), 0.5);
        assert_eq!(balance_of(&[(10.0, 1.0), (40.0, 4.0)]), 1.0);
        assert_eq!(balance_of(&[]), 1.0);
    }
}
