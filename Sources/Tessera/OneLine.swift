extension String {
    /// At most `count` characters of this text, for a message of one line: what would move the cursor of a terminal or
    /// begin a new line is a space. Texts of outside go through it before a person reads them.
    package func onOneLine(atMost count: Int = 400) -> String {
        let scalars = unicodeScalars.prefix(count).map { scalar -> Unicode.Scalar in
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator: " "
            default: scalar
            }
        }
        return String(String.UnicodeScalarView(scalars))
    }
}
