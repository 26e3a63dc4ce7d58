//! The languages that the product writes in.

use super::text::text_enum;

text_enum! {
    /// What a person is written to in. Swedish unless somebody says otherwise.
    #[derive(Default)]
    pub enum Language("language") {
        /// Swedish.
        #[default]
        Sv = "sv",
        /// English.
        En = "en",
    }
}
