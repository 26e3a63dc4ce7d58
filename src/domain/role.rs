//! What a person is in an organization (AUTH-1). What each of them may do is [`super::policy`].

use super::text::text_enum;

text_enum! {
    /// One per person and organization.
    pub enum Role("role") {
        /// Runs the organization: its people, its keys, its books.
        Admin = "admin",
        /// Connects programs to it: jobs, and a look at the books.
        Developer = "developer",
        /// Works in its workspaces.
        User = "user",
        /// Belongs to one of the companies that it invoices, and sees that company's records only.
        Customer = "customer",
    }
}
