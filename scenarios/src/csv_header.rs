//! First lines that no table of measurements has: every reader of one would misread them alike.

/// What is wrong with the names of the columns, and what to do.
pub(crate) fn problem(headers: &[String]) -> Option<String> {
    if let [only] = headers {
        let other = [(';', "semicolons"), ('\t', "tabs")];
        if let Some((_, name)) = other.into_iter().find(|(separator, _)| only.contains(*separator))
        {
            return Some(format!("{name} separate its columns: write commas"));
        }
    }
    let mut names: Vec<&String> = headers.iter().filter(|name| !name.is_empty()).collect();
    names.sort();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1])?;
    Some(format!("two columns are called `{}`: remove one", twice[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_each_column_once_between_commas() {
        let problem = |names: &[&str]| {
            problem(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(problem(&["m", "n", "", ""]), None);
        assert_eq!(problem(&["m"]), None);
        let twice = problem(&["m", "n", "m"]).expect("twice");
        assert_eq!(twice, "two columns are called `m`: remove one");
        let semicolons = problem(&["m;n"]).expect("one column");
        assert_eq!(semicolons, "semicolons separate its columns: write commas");
        assert_eq!(problem(&["m\tn"]).expect("one"), "tabs separate its columns: write commas");
    }
}
