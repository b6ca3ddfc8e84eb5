import Tessera
import TesseraModels
import TesseraNN

/// The settings of bootstrapping, with the published defaults.
public struct BootstrappingOptions: MethodOptions {
    static let methods = ["bootstrapping"]
    static let prefix = "bootstrapping"

    /// Whose weights the agent's blocks have.
    public enum Form: String, Codable, Sendable, CaseIterable {
        /// Their own.
        case joint
        /// The transformer's; its stem, norms and head are its own.
        case shared
    }

    public var form = Form.joint
    public var stem = AgentNetwork.Configuration.Stem.patches
    /// What stands for attention in an agent with weights of its own.
    public var convolution = AgentNetwork.Configuration.Convolution.standard
    /// The agent's blocks after which its map is halved.
    public var pooledBlocks: [Int] = []
    /// The agent normalises what its branches give instead of what they take.
    public var normalizesResults = false
    /// At which the two learn each other's answers.
    public var temperature = 4.0
    /// The weight of each other's answers.
    public var distillation = 1.0
    /// The weight of the agent's features for the transformer, which falls to nothing.
    public var hint = 10.0
    /// The weight of the transformer's features for the agent.
    public var agentHint = 0.0

    public init() {}

    func checkValues(_ problems: inout OptionProblems) {
        problems.require(
            temperature > 0 && temperature <= 1000, "bootstrapping-tau", temperature, "above 0, at most 1000")
        for (flag, weight) in [("kd", distillation), ("hint", hint), ("agent-hint", agentHint)] {
            problems.require((0...1000).contains(weight), "bootstrapping-\(flag)", weight, "0 to 1000")
        }
        problems.require(
            pooledBlocks.allSatisfy { $0 >= 0 }, "bootstrapping-pool", pooledBlocks, "0 or more")
    }

    /// What the transformer's hint is multiplied by in an epoch, counted from 0: 1 − (epoch + 1) / epochs.
    func decay(epoch: Int, of epochs: Int) -> Double { 1 - Double(epoch + 1) / Double(epochs) }
}

/// Mutual training of a transformer and its convolutional agent: "Bootstrapping ViTs: Towards Liberating Vision
/// Transformers from Pre-training" (2021), arXiv 2112.03552.
///
/// For the transformer: criterion + KD(answer, agent's answer) + 10 · decay · Σ over blocks of hints; for the agent the
/// same with roles exchanged, whose hints weigh nothing. Nobody learns through what the other one shows. With shared
/// weights both losses count half. What is kept is the transformer.
public final class Bootstrapping: Objective {
    public let model: any ImageClassifier
    public var companion: Module? { agent }
    let agent: AgentNetwork
    private let criterion: Criterion
    private let options: BootstrappingOptions

    init(
        _ model: any PlainTransformer, agent: AgentNetwork, criterion: Criterion = Criterion(),
        options: BootstrappingOptions
    ) {
        (self.model, self.agent) = (model, agent)
        (self.criterion, self.options) = (criterion, options)
    }

    /// What one of the two networks pays.
    struct Terms {
        let classification: Tensor
        let distillation: Tensor
        /// One for each block.
        let hints: [Tensor]
    }

    public func callAsFunction(_ batch: TrainingBatch, at moment: TrainingMoment) -> ObjectiveValue {
        let (own, others, logits) = terms(batch)
        let decay = options.decay(epoch: moment.epoch, of: moment.epochs)
        let loss = total(own, hint: options.hint * decay) + total(others, hint: options.agentHint)
        return ObjectiveValue(loss: options.form == .shared ? loss * 0.5 : loss, logits: logits)
    }

    /// The transformer's terms and the agent's, and the transformer's logits.
    func terms(_ batch: TrainingBatch) -> (transformer: Terms, agent: Terms, logits: Tensor) {
        let (features, blocks) = model.observed(batch.images)
        let (agentFeatures, agentBlocks) = agent.observed(batch.images)
        func terms(_ own: Features, _ peer: Features, _ maps: [Tensor], _ peers: [Tensor]) -> Terms {
            Terms(
                classification: criterion(own.classification, batch.targets),
                distillation: DistillationLoss.kl(
                    own.logits, peer.logits, temperature: Float(options.temperature)),
                hints: zip(maps, peers).map { Self.hint($0, $1.detached) })
        }
        return (
            terms(features, agentFeatures, blocks, agentBlocks), terms(agentFeatures, features, agentBlocks, blocks),
            features.logits
        )
    }

    func total(_ terms: Terms, hint: Double) -> Tensor {
        let loss = terms.classification + terms.distillation * Float(options.distillation)
        return hint == 0 ? loss : loss + terms.hints.reduce(Tensor(0), +) * Float(hint)
    }

    /// The mean squared difference of two maps `[batch, rows, columns, channels]` whose places are normalised each. Of the
    /// larger one, as many places in a row of reading become their mean as it takes to have equally many.
    static func hint(_ map: Tensor, _ peer: Tensor) -> Tensor {
        let (batch, channels) = (map.shape[0], map.shape[3])
        let places = min(map.shape[1] * map.shape[2], peer.shape[1] * peer.shape[2])
        func normalized(_ map: Tensor) -> Tensor {
            let run = map.shape[1] * map.shape[2] / places
            let means = map.reshaped([batch, places, run, channels]).mean(axes: [2])
            return layerNorm(means, weight: nil, bias: nil, epsilon: 1e-5)
        }
        return (normalized(map) - normalized(peer)).squared().mean()
    }
}

extension TrainingMethod {
    static let bootstrapping = TrainingMethod(
        name: "bootstrapping", summary: "a convolutional agent of the model learns beside it",
        paper: ("Bootstrapping ViTs: Towards Liberating Vision Transformers from Pre-training", 2021, "2112.03552"),
        teacher: .none, makeObjective: { try Bootstrapping($0) })
}

extension Bootstrapping {
    fileprivate convenience init(_ setup: MethodSetup) throws {
        let options = setup.options.bootstrapping
        guard let model = setup.model as? any PlainTransformer else {
            throw setup.refusal(
                "the model is no plain transformer of equal blocks on one grid of patches, from which an agent could be "
                    + "derived, expected one such as vit_tiny_patch16_224, deit_tiny_patch16_224 or "
                    + "bootstrapped_vit_small_c100")
        }
        var configuration = model.agent
        (configuration.stem, configuration.pooledBlocks) = (options.stem, options.pooledBlocks)
        configuration.convolution = options.form == .shared ? .heads : options.convolution
        configuration.normalizesResults = options.normalizesResults
        do { try configuration.validate() } catch { throw setup.refusal("the agent cannot be: \(error)") }
        let weights = options.form == .shared ? model.blockWeights : nil
        guard options.form == .joint || weights != nil else {
            throw setup.refusal(
                "the model's gated perceptrons are no convolutions that an agent could share, expected "
                    + "--bootstrapping-form joint")
        }
        let agent = AgentNetwork(configuration, sharing: weights)
        let maps = zip(model.observed(setup.abstractImage).blocks, agent.observed(setup.abstractImage).blocks)
        for (index, pair) in maps.enumerated() {
            let (own, others) = (pair.0.shape, pair.1.shape)
            let places = [own[1] * own[2], others[1] * others[2]].sorted()
            guard places[1] % places[0] == 0 else {
                throw setup.refusal(
                    "block \(index) has \(own[1])×\(own[2]) tokens and its agent \(others[1])×\(others[2]) places, "
                        + "expected one number to divide the other")
            }
        }
        self.init(model, agent: agent, criterion: setup.options.criterion, options: options)
    }
}
