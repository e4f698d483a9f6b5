//! What a section of the configuration knows about itself: its keys, with the words that explain them.
//!
//! Structure, default, documentation and the example file come from one place, so they cannot differ.

/// A key of a section.
pub(super) struct Key {
    /// The key's name in the file.
    pub(super) name: &'static str,
    /// What explains it, line by line.
    pub(super) doc: &'static [&'static str],
    /// The keys below it, where it is a section.
    pub(super) section: Option<&'static [Key]>,
    /// The keys of each of its entries, where it is a list of sections.
    pub(super) list: Option<&'static [Key]>,
}

/// A part of the configuration that knows its keys.
pub(super) trait Section {
    /// Its keys, in the order in which they are written.
    const KEYS: &'static [Key];
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
        lists {
            $($(#[doc = $ldoc:literal])* $list:ident: $ltype:ty,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
            $($(#[doc = $sdoc])* pub $section: $stype,)*
            $($(#[doc = $ldoc])* pub $list: Vec<$ltype>,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* $($section: $sdefault,)* $($list: Vec::new(),)* }
            }
        }

        impl $crate::config::section::Section for $name {
            const KEYS: &'static [$crate::config::section::Key] = &[
                $($crate::config::section::Key {
                    name: stringify!($field),
                    doc: &[$($doc),*],
                    section: None,
                    list: None,
                },)*
                $($crate::config::section::Key {
                    name: stringify!($section),
                    doc: &[$($sdoc),*],
                    section: Some(<$stype as $crate::config::section::Section>::KEYS),
                    list: None,
                },)*
                $($crate::config::section::Key {
                    name: stringify!($list),
                    doc: &[$($ldoc),*],
                    section: None,
                    list: Some(<$ltype as $crate::config::section::Section>::KEYS),
                },)*
            ];
        }
    };
}

pub(super) use section;
