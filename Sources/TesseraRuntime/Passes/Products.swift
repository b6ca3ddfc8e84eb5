import Tessera

extension Graph {
    /// Linear layers and convolutions become products, for other passes to fuse into.
    mutating func recogniseProducts() {
        for index in nodes.indices {
            switch nodes[index].operation {
            case let linear as LinearOperation: nodes[index].operation = Product(linear)
            case let convolution as Convolution: nodes[index].operation = Product(convolution)
            default: break
            }
        }
    }
}
