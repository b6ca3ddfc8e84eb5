/// The method of Broyden, Fletcher, Goldfarb and Shanno with limited memory: "On the limited memory BFGS method for
/// large scale optimization" (Liu and Nocedal, 1989). For smooth convex functions of a few thousand numbers.
enum LBFGS {
    /// Pairs of steps and changes of the gradient that stand for the curvature.
    private static let memory = 10
    /// Ends where no partial derivative is greater, times the greatest at the start.
    private static let tolerance: Float = 1e-4
    /// The share of the decrease that the slope promises which a step must bring (Armijo's condition).
    private static let decrease = 1e-4
    private static let halvings = 20

    /// - Parameter function: the value and the gradient at a point
    /// - Returns: the point where the gradient vanishes, or where `iterations` steps led
    static func minimum(
        from start: [Float], iterations: Int, _ function: ([Float]) -> (value: Double, gradient: [Float])
    ) -> [Float] {
        var point = start
        var (value, gradient) = function(point)
        let small = tolerance * greatest(gradient)
        var pairs: [(step: [Float], change: [Float])] = []
        for _ in 0..<iterations where greatest(gradient) > small {
            let direction = direction(gradient, pairs)
            let slope = dot(direction, gradient)
            // The first step has no curvature to take its length from.
            var length: Float = pairs.isEmpty ? 1 / max(1, Float(dot(gradient, gradient).squareRoot())) : 1
            var next = function(sum(point, direction, length))
            for _ in 0..<halvings where !(next.value <= value + decrease * Double(length) * slope) {
                length /= 2
                next = function(sum(point, direction, length))
            }
            guard next.value < value else { break }
            let step = direction.map { $0 * length }
            let change = sum(next.gradient, gradient, -1)
            (point, value, gradient) = (sum(point, step, 1), next.value, next.gradient)
            if dot(step, change) > 0 { pairs = (pairs + [(step, change)]).suffix(memory) }
        }
        return point
    }

    /// Minus the inverse of the curvature times the gradient: the two loops of the method.
    private static func direction(_ gradient: [Float], _ pairs: [(step: [Float], change: [Float])]) -> [Float] {
        var result = gradient.map { -$0 }
        var factors: [Double] = []
        for (step, change) in pairs.reversed() {
            let factor = dot(step, result) / dot(step, change)
            factors.append(factor)
            result = sum(result, change, Float(-factor))
        }
        if let (step, change) = pairs.last {
            let scale = Float(dot(step, change) / dot(change, change))
            result = result.map { $0 * scale }
        }
        for ((step, change), factor) in zip(pairs, factors.reversed()) {
            result = sum(result, step, Float(factor - dot(change, result) / dot(step, change)))
        }
        return result
    }

    private static func greatest(_ x: [Float]) -> Float { x.reduce(0) { max($0, abs($1)) } }

    private static func dot(_ a: [Float], _ b: [Float]) -> Double {
        zip(a, b).reduce(0) { $0 + Double($1.0) * Double($1.1) }
    }

    /// a + scale · b
    private static func sum(_ a: [Float], _ b: [Float], _ scale: Float) -> [Float] {
        zip(a, b).map { $0 + scale * $1 }
    }
}
