//! Labels, as relabelling and the making of a series see them.

/// Names and values, sorted by name. A label without a value is none, but for what [`Labels::distinct`] says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Labels(Vec<(String, String)>);

/// The most labels that a series may have, whatever the limits of its job say.
pub(crate) const MOST: usize = 1024;

/// The label that holds the name of a metric.
pub(crate) const NAME: &str = "__name__";

// === impl Labels ===

impl Labels {
    /// These labels, each of a name of its own; or the name that stands there twice. One without a value is still
    /// known to be [there](Labels::contains), until [`Labels::settle`]: with it a target may take a label away.
    pub(crate) fn distinct<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, String> {
        let mut labels: Vec<(String, String)> =
            pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        labels.sort_by(|one, other| one.0.cmp(&other.0));
        let twice = labels.windows(2).find_map(|pair| match pair {
            [one, next] if one.0 == next.0 => Some(next.0.clone()),
            _ => None,
        });
        if let Some(twice) = twice {
            return Err(twice);
        }
        Ok(Self(labels))
    }

    /// Forgets labels without a value.
    pub(crate) fn settle(&mut self) {
        self.0.retain(|(_, value)| !value.is_empty());
    }

    /// The value of a label, empty if there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.find(name).ok().and_then(|at| self.0.get(at)).map_or("", |(_, value)| value)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Sets a label, or takes it away if the value is empty.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.find(name) {
            Ok(at) if value.is_empty() => drop(self.0.remove(at)),
            Ok(at) => {
                if let Some((_, old)) = self.0.get_mut(at) {
                    *old = value;
                }
            }
            Err(_) if value.is_empty() => {}
            Err(at) => self.0.insert(at, (name.to_owned(), value)),
        }
    }

    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(&str) -> bool) {
        self.0.retain(|(name, _)| wanted(name));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }
}

/// Of labels of the same name, the last is kept.
impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut labels: Vec<(String, String)> =
            pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        labels.reverse();
        labels.sort_by(|one, other| one.0.cmp(&other.0));
        labels.dedup_by(|one, before| one.0 == before.0);
        labels.retain(|(_, value)| !value.is_empty());
        Self(labels)
    }
}
