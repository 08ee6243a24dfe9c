namespace Virtbus.Tests.Trust;

/// <summary>The driver of a network device: two rings, buffers always offered.</summary>
internal sealed class VirtioNetUser : VirtioUser
{
    public const int MemoryNeeded = (2 * VirtioRing.Bytes) + (2 * VirtioRing.Slots * BufferSize);
    private const int Receive = 0, Transmit = 1;
    private const int HeaderSize = 12;
    private const int BufferSize = 2048;
    private readonly List<byte[]> _frames = [];

    public VirtioNetUser(Attachment function, GuestMemory memory, int at)
        : base(function, memory, at, 2)
    {
        Registers.ReadConfig(0, Address);
        Offer();
    }

    /// <summary>The device's own.</summary>
    public byte[] Address { get; } = new byte[NicFrame.AddressSize];

    /// <summary>Frames that the device has sent.</summary>
    public uint Sent => Rings[Transmit].Done;

    /// <summary>Frames that are with the device.</summary>
    public int Sending => Rings[Transmit].InFlight;

    /// <summary>Takes the frames that have come.</summary>
    public IReadOnlyList<byte[]> Take()
    {
        byte[][] taken = [.. _frames];
        _frames.Clear();
        return taken;
    }

    /// <summary>Gives the device a frame, which it may find before it is told.</summary>
    /// <returns>Whether there is room.</returns>
    public bool TryPublish(ReadOnlySpan<byte> frame)
    {
        if (!Rings[Transmit].TryRent(out var slot))
            return false;
        var at = BufferOf(Transmit, slot);
        Memory.Write(at, new byte[HeaderSize]);
        Memory.Write(at + HeaderSize, frame);
        Rings[Transmit].Put(slot, (at, HeaderSize + frame.Length, false));
        return true;
    }

    public override void Ring() => Registers.Notify(Transmit);

    public override void Listen()
    {
        while (Rings[Transmit].TryTake(out _, out _))
        {
        }

        var any = false;
        for (; Rings[Receive].TryTake(out var slot, out var written); any = true)
        {
            Demand(written is > HeaderSize and <= BufferSize, $"a frame has {written} bytes");
            var frame = new byte[written - HeaderSize];
            Memory.Read(BufferOf(Receive, slot) + HeaderSize, frame);
            _frames.Add(frame);
        }

        if (any)
            Offer();
    }

    private void Offer()
    {
        while (Rings[Receive].TryRent(out var slot))
            Rings[Receive].Put(slot, (BufferOf(Receive, slot), BufferSize, true));
        Registers.Notify(Receive);
    }

    private int BufferOf(int queue, int slot) => Place(((queue * VirtioRing.Slots) + slot) * BufferSize);
}
