//! Ascending lists of numbers; consecutive numbers are stored as a range.
//!
//! The home tasks of a rank are usually a block of an array, which then takes no memory and no
//! bytes in messages.

use serde::de::Error;
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::numbers::{Symbols, Unpacked};

/// A strictly ascending list of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ascending {
    first: u32,
    len: u32,
    /// The numbers, if they are not consecutive.
    listed: Vec<u32>,
}

impl Ascending {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True if the list is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number at a position.
    #[inline]
    pub fn get(&self, at: u32) -> u32 {
        if self.listed.is_empty() { self.first + at } else { self.listed[at as usize] }
    }

    /// The position of a number, if the list contains it.
    #[inline]
    pub fn position(&self, number: u32) -> Option<u32> {
        if self.listed.is_empty() {
            number.checked_sub(self.first).filter(|&at| at < self.len)
        } else {
            self.listed.binary_search(&number).ok().map(|at| at as u32)
        }
    }

    /// Like `position`, for a number that probably follows position `near` directly.
    #[inline]
    pub fn position_after(&self, number: u32, near: u32) -> Option<u32> {
        let next = near.wrapping_add(1);
        if self.listed.get(next as usize) == Some(&number) { Some(next) } else { self.position(number) }
    }

    /// All numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        (0..self.len).map(|at| self.get(at))
    }

    /// Difference to the previous number; for the first, to 0.
    fn step(&self, at: usize) -> u32 {
        if at == 0 { self.first } else { self.listed[at] - self.listed[at - 1] }
    }
}

impl FromIterator<u32> for Ascending {
    /// Collects ascending numbers.
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Ascending {
        let mut listed = Vec::new();
        let (mut first, mut len) = (0, 0);
        for number in numbers {
            if len == 0 {
                first = number;
            } else if listed.is_empty() && number != first + len {
                listed.extend(first..first + len);
            }
            if !listed.is_empty() {
                listed.push(number);
            }
            len += 1;
        }
        listed.shrink_to_fit();
        Ascending { first, len, listed }
    }
}

impl Serialize for Ascending {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(3)?;
        tuple.serialize_element(&self.first)?;
        tuple.serialize_element(&self.len)?;
        tuple.serialize_element(&Symbols(self.listed.len(), |at| self.step(at)))?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Ascending {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (first, len, Unpacked(mut listed)): (u32, u32, Unpacked<u32>) = Deserialize::deserialize(deserializer)?;
        let sound = match listed.first() {
            None => first.checked_add(len).is_some(),
            Some(&step) => step == first && listed.len() == len as usize && add_up(&mut listed),
        };
        if sound { Ok(Ascending { first, len, listed }) } else { Err(D::Error::custom("numbers that do not ascend")) }
    }
}

/// Converts differences to numbers in place; false if they do not ascend.
fn add_up(steps: &mut [u32]) -> bool {
    (1..steps.len()).all(|at| {
        let sum = steps[at - 1].checked_add(steps[at]).filter(|&sum| sum > steps[at - 1]);
        steps[at] = sum.unwrap_or(0);
        sum.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_lists_say_the_same() {
        for numbers in [vec![], vec![7], vec![5, 6, 7], vec![0, 1, 2, 9, 10], vec![3, 5, u32::MAX]] {
            let set: Ascending = numbers.iter().copied().collect();
            assert_eq!((set.len(), set.is_empty()), (numbers.len(), numbers.is_empty()));
            assert_eq!(set.iter().collect::<Vec<_>>(), numbers);
            for (at, &number) in numbers.iter().enumerate() {
                assert_eq!(set.position(number), Some(at as u32));
            }
            assert_eq!((set.position(4), set.position(8)), (None, None));
            let bytes = postcard::to_stdvec(&set).unwrap();
            assert_eq!(postcard::from_bytes::<Ascending>(&bytes).unwrap(), set);
        }
        let block: Ascending = (10..1_000_000).collect();
        assert_eq!(block.listed.capacity(), 0);
        assert!(postcard::to_stdvec(&block).unwrap().len() < 10);
    }

    #[test]
    fn what_does_not_ascend_is_refused() {
        let read = |first: u32, len: u32, steps: &[u32]| {
            let bytes = postcard::to_stdvec(&(first, len, Symbols(steps.len(), |i| steps[i]))).unwrap();
            postcard::from_bytes::<Ascending>(&bytes).is_ok()
        };
        assert!(read(1, 3, &[1, 5, 5]));
        assert!(!read(1, 3, &[1, 5, 0]) && !read(1, 3, &[1, 5, u32::MAX]) && !read(2, 3, &[1, 5, 5]));
        assert!(!read(1, 2, &[1, 5, 5]) && !read(u32::MAX, 2, &[]));
    }
}
