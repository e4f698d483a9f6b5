//! What a section of the configuration knows about itself: its keys, with the words that explain them.
//!
//! Structure, default, documentation and the example file come from one place, so they cannot differ.

/// A key of a section.
pub(crate) struct Key {
    /// The key's name in the file.
    pub(crate) name: &'static str,
    /// What explains it, line by line.
    pub(crate) doc: &'static [&'static str],
    /// The keys below it, where it is a section.
    pub(crate) section: Option<&'static [Key]>,
}

/// A part of the configuration that knows its keys.
pub(crate) trait Section {
    /// Its keys, in the order in which they are written.
    const KEYS: &'static [Key];
}

/// A list of tables, each with the same keys.
impl<S: Section> Section for Vec<S> {
    const KEYS: &'static [Key] = S::KEYS;
}

/// Defines a section: a structure, its defaults, and its [`Key`]s from the doc comments.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident {
            $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr,)*
        }
        sections {
            $($(#[doc = $sdoc:literal])* $section:ident: $stype:ty = $sdefault:expr,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[allow(clippy::struct_field_names, reason = "keys are named for whoever writes the file")]
        #[allow(unreachable_pub, reason = "what is a section's own module, and who may see it, is not known here")]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
            $($(#[doc = $sdoc])* pub $section: $stype,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* $($section: $sdefault,)* }
            }
        }

        impl $crate::config::section::Section for $name {
            const KEYS: &'static [$crate::config::section::Key] = &[
                $($crate::config::section::Key {
                    name: stringify!($field),
                    doc: &[$($doc),*],
                    section: None,
                },)*
                $($crate::config::section::Key {
                    name: stringify!($section),
                    doc: &[$($sdoc),*],
                    section: Some(<$stype as $crate::config::section::Section>::KEYS),
                },)*
            ];
        }
    };
}

pub(crate) use section;
