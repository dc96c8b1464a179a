//! Samples and their quantiles.

use std::time::Duration;

/// Measured values, in no order.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one value.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a duration, in milliseconds.
    pub fn add_millis(&mut self, duration: Duration) {
        self.add(duration.as_secs_f64() * 1e3);
    }

    /// Takes over the values of others.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value at a quantile between 0 and 1: the smallest that is not
    /// exceeded by that share of all. Zero if there are none.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (quantile * sorted.len() as f64).ceil() as usize;
        sorted
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    /// The value in the middle.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut samples = Samples::default();
        assert_eq!(samples.median(), 0.0);
        for value in (1..=100).rev() {
            samples.add(f64::from(value));
        }
        let got = [0.0, 0.01, 0.5, 0.99, 1.0].map(|q| samples.quantile(q));
        assert_eq!(got, [1.0, 1.0, 50.0, 99.0, 100.0]);
        assert_eq!(samples.len(), 100);
    }
}
