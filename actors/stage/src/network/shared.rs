//! Tables that several kinds have in common with keys of their own.
//!
//! otelcol lays such keys side by side, and serde's `flatten` loses the key that an error belongs to. So a common
//! table is declared once, and with it a macro that lays it beside a kind's own keys.

/// Declares a table of settings, and the macro `$with` that declares one with these and more keys:
///
/// ```ignore
/// http_server_settings! {
///     /// Settings of a receiver.
///     pub struct Mine { /// A key of its own.
///         path: String = "/".into(), }
/// }
/// ```
///
/// Such a table has all keys with all defaults, and `shared()` gives those in common.
macro_rules! shared_settings {
    ($d:tt $with:ident; $(#[$about:meta])* pub struct $shared:ident {
        $($(#[$meta:meta])* $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$about])*
        #[derive(Clone, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $shared {
            $($(#[$meta])* pub $field: $type,)*
        }

        impl Default for $shared {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        /// Declares settings with keys of their own beside those in common.
        #[macro_export]
        macro_rules! $with {
            ($d(#[$d own_about:meta])* $d vis:vis struct $d name:ident {
                $d($d(#[$d own_meta:meta])* $d own:ident: $d own_type:ty = $d own_default:expr,)*
            }) => {
                $d(#[$d own_about])*
                #[derive(Clone, serde::Deserialize, schemars::JsonSchema)]
                #[serde(deny_unknown_fields, default)]
                $d vis struct $d name {
                    $d($d(#[$d own_meta])* pub $d own: $d own_type,)*
                    $($(#[$meta])* pub $field: $type,)*
                }

                impl Default for $d name {
                    fn default() -> Self {
                        let shared = $crate::$shared::default();
                        Self { $d($d own: $d own_default,)* $($field: shared.$field,)* }
                    }
                }

                impl $d name {
                    /// The keys that it has in common with others.
                    fn shared(&self) -> $crate::$shared {
                        $crate::$shared { $($field: self.$field.clone(),)* }
                    }
                }
            };
        }
    };
}

pub(super) use shared_settings;
