//! What a series says that it was made for (`git format-patch --base`). Pure.

/// A commit, and the patches on it that the series needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Base {
    /// The commit, by its full name.
    pub(super) commit: Option<String>,
    /// The patches, as `git patch-id --stable` names them.
    pub(super) prerequisites: Vec<String>,
}

impl Base {
    /// Reads the parts of a mail.
    pub(super) fn read<'a>(parts: impl IntoIterator<Item = &'a Vec<u8>>) -> Base {
        let mut base = Base::default();
        for part in parts {
            for line in String::from_utf8_lossy(part).lines() {
                let value = |key: &str| {
                    let name = line.strip_prefix(key)?.trim();
                    let sound = name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit());
                    sound.then(|| name.to_lowercase())
                };
                if let Some(commit) = value("base-commit:") {
                    base.commit = Some(commit);
                }
                base.prerequisites.extend(value("prerequisite-patch-id:"));
            }
        }
        base
    }

    /// Adds what another mail of the same series says.
    pub(super) fn add(&mut self, other: Base) {
        self.commit = self.commit.take().or(other.commit);
        for id in other.prerequisites {
            if !self.prerequisites.contains(&id) {
                self.prerequisites.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_at_the_end_of_a_mail_is_read() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let id = "89abcdef0123456789abcdef0123456789abcdef";
        let text = format!(
            "+a\n-- \n2.47\n\nbase-commit: {commit}\nprerequisite-patch-id: {id}\n\
             prerequisite-patch-id: short\n"
        );
        let base = Base::read([&text.into_bytes()]);
        assert_eq!((base.commit.as_deref(), base.prerequisites.len()), (Some(commit), 1));
        let mut both = Base { commit: Some(id.into()), prerequisites: vec![id.into()] };
        both.add(base);
        assert_eq!(both, Base { commit: Some(id.into()), prerequisites: vec![id.into()] });
    }
}
