//! Things that come and go, by number: a vector that fills its gaps.

/// See the module's text.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    gaps: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { entries: Vec::new(), gaps: Vec::new() }
    }

    /// Puts something in and returns its number, which may have been that of something taken out before.
    pub(super) fn put(&mut self, value: T) -> u32 {
        match self.gaps.pop() {
            Some(gap) => {
                self.entries[gap as usize] = Some(value);
                gap
            }
            None => {
                self.entries.push(Some(value));
                self.entries.len() as u32 - 1
            }
        }
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn take(&mut self, number: u32) -> Option<T> {
        let value = self.entries.get_mut(number as usize)?.take()?;
        self.gaps.push(number);
        Some(value)
    }

    /// All of them with their numbers, in order of number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().enumerate().filter_map(|(i, entry)| Some((i as u32, entry.as_ref()?)))
    }
}
