using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>A queue as its guest knows it: the ring, what is out, which places for buffers are free.</summary>
internal sealed class SimQueue(int index)
{
    public const int Size = 8;

    private readonly SimRequest?[] _out = new SimRequest?[Size];
    private readonly Stack<int> _free = new();

    public int Index { get; } = index;

    /// <summary>Null while the queue is not enabled.</summary>
    public DriverRing? Ring { get; set; }

    public ushort Vector { get; set; } = VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR;

    /// <summary>Put into the ring, and not shown yet.</summary>
    public bool HasUnpublished { get; set; }

    /// <summary>The guest asked to be told of the next used buffer, and was not told yet.</summary>
    public bool IsArmed { get; set; }

    /// <summary>An interrupt came since then.</summary>
    public bool IsCalled { get; set; }

    public int Outstanding { get; private set; }

    /// <summary>Requests that came back since the device was made, whoever was the driver.</summary>
    public ulong Taken { get; set; }

    public IEnumerable<SimRequest> Out => _out.Where(static r => r is not null)!;

    public bool HasRoom => _free.Count > 0;

    public int TakeSlot() => _free.Pop();

    public void GiveSlot(int slot) => _free.Push(slot);

    public void Put(int name, SimRequest request)
    {
        _out[name] = request;
        Outstanding++;
    }

    public bool IsOut(int name) => name < Size && _out[name] is not null;

    public SimRequest? Take(int name)
    {
        if (!IsOut(name))
            return null;
        var request = _out[name];
        _out[name] = null;
        Outstanding--;
        return request;
    }

    /// <summary>Nothing is out any more.</summary>
    public void Clear()
    {
        Array.Clear(_out);
        _free.Clear();
        for (var slot = 0; slot < Size; slot++)
            _free.Push((Index * Size) + slot);
        Outstanding = 0;
        Ring = null;
        IsArmed = IsCalled = HasUnpublished = false;
    }
}
