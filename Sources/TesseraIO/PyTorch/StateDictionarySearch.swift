/// Finds the weights among what a training script saved: the state dictionary itself, or one inside wrappers.
struct StateDictionarySearch {
    /// Names under which scripts keep weights, the first that is there is taken: averaged weights, which are those that
    /// are evaluated, before the last ones, and a teacher before its student.
    static let wrappers = [
        "state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model_state", "model", "module",
        "teacher", "student", "network", "net", "weights",
    ]
    private static let maximumDepth = 8
    private static let maximumVisits = 1_000_000

    private let machine: PickleMachine
    private var visits = 0
    private var tensors: [String: TorchTensor] = [:]

    init(_ machine: PickleMachine) { self.machine = machine }

    /// - Parameter section: the wrapper to open, where the usual order is not wanted; dots lead further in
    /// - Returns: nil if there are no tensors under names
    mutating func run(
        _ root: PickleValue, section: String?
    ) -> (tensors: [String: TorchTensor], wrappers: [String])? {
        var (value, opened): (PickleValue, [String]) = (root, [])
        for name in section?.split(separator: ".").map(String.init) ?? [] {
            guard let inner = member(name, of: value) else { return nil }
            (value, opened) = (inner, opened + [name])
        }
        while opened.count < Self.maximumDepth, let (name, inner) = wrapped(value) {
            (value, opened) = (inner, opened + [name])
        }
        collect(value, "", depth: 0)
        return tensors.isEmpty ? nil : (tensors, opened)
    }

    private func member(_ name: String, of value: PickleValue) -> PickleValue? {
        machine.members(value).first { $0.key == name }?.value
    }

    private func wrapped(_ value: PickleValue) -> (String, PickleValue)? {
        let members = machine.members(value)
        for name in Self.wrappers {
            guard let inner = members.first(where: { $0.key == name })?.value else { continue }
            // The word may also be the first part of the weights' own names, or a string that names the model.
            if !machine.members(inner).isEmpty { return (name, inner) }
        }
        return nil
    }

    /// All tensors in a dictionary and in dictionaries inside it, the names joined by dots.
    private mutating func collect(_ value: PickleValue, _ prefix: String, depth: Int) {
        guard depth < Self.maximumDepth else { return }
        for (key, value) in machine.members(value) {
            visits += 1
            guard visits <= Self.maximumVisits else { return }
            if case .tensor(let tensor) = value {
                tensors[prefix + key] = tensor
            } else {
                collect(value, "\(prefix)\(key).", depth: depth + 1)
            }
        }
    }
}
