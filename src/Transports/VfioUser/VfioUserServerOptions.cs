using Virtbus.Memory;
using Virtbus.Wire.VfioUser;

namespace Virtbus.Transports.VfioUser;

/// <summary>What a vfio-user server offers its clients and how it waits for them.</summary>
public sealed record VfioUserServerOptions
{
    /// <summary>The most descriptors in one message, 1 to 16 (max_msg_fds).</summary>
    public int MaxDescriptors { get; init; } = VfioUserProtocol.MaxDescriptors;

    /// <summary>The most bytes of data in one message, 1 to 1 MiB (max_data_xfer_size).</summary>
    public int MaxDataTransfer { get; init; } = VfioUserProtocol.MaxDataTransfer;

    /// <summary>The most ranges that a client may map, 1 to 65535 (max_dma_maps).</summary>
    public int MaxDmaMaps { get; init; } = VfioUserProtocol.MaxDmaMaps;

    /// <summary>Whether a client that can takes this side's requests on a socket of their own (twin_socket).</summary>
    public bool TwinSocket { get; init; } = true;

    /// <summary>
    /// Whether each header is received on its own, and not many messages at once. For a client that puts several messages with descriptors
    /// into one call; others are faster without.
    /// </summary>
    public bool HeaderByHeader { get; init; }

    /// <summary>
    /// How long a client may take to answer a request for its memory, the device's access failing then; and to make room for an answer that it
    /// asked for, its connection ending then.
    /// </summary>
    public TimeSpan AnswerTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long a client may take from its connecting to its first message; others wait meanwhile.</summary>
    public TimeSpan GreetingTimeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>What pays for the mappings of clients' memory.</summary>
    internal MappingBudget Mappings { get; init; } = MappingBudget.Process;
}
