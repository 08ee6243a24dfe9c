using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Tty;

/// <summary>A line by which bytes go both ways: what the tty subsystem makes when a driver registers one. One user has it at a time. Any thread.</summary>
public sealed class TtyDevice : Device
{
    private const int MostDropped = 64 << 10;
    private const int DropBytes = 512;

    private readonly Lock _lock = new();
    // Who is in the driver's side: nobody is when the line has hung up.
    private readonly UseGate _calls = new();
    private ITtyOps? _ops;
    private TtyUser? _user;

    internal TtyDevice(TtySubsystem subsystem, string name, Device? parent, ITtyOps ops)
        : base(name, parent, bus: null, subsystem.Class) => _ops = ops;

    /// <summary>Characters of a row, and rows, of what is at the other end; 0 where that is not known.</summary>
    public (int Columns, int Rows) Size
    {
        get
        {
            if (!_calls.TryEnter())
                return default;
            try
            {
                return _ops!.Size;
            }
            finally
            {
                _calls.Leave();
            }
        }
    }

    /// <summary>Who has it open; null when nobody has.</summary>
    public TtyUser? User => Volatile.Read(ref _user);

    /// <summary>Whether it hung up: its driver has gone.</summary>
    public bool IsHungUp => _calls.IsClosed;

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> AttributeGroups => Groups;

    private static readonly AttributeGroup[] Groups =
    [
        new(
            new ObjectAttribute<TtyDevice>("columns", static d => $"{d.Size.Columns}"),
            new ObjectAttribute<TtyDevice>("rows", static d => $"{d.Size.Rows}"),
            new ObjectAttribute<TtyDevice>("user", static d => d.User?.Name ?? "")),
    ];

    /// <summary>Opens the line. What came while nobody had it open is there to be read, as far as the driver keeps it.</summary>
    /// <param name="user">Who does, for messages and the line's attributes.</param>
    /// <param name="changed">
    /// Called when there may be more to read or room to write, when the size may be another, and at the hang-up; on a thread of the driver, or of a write that
    /// finds the device broken: it must not block.
    /// </param>
    /// <returns>The open line; disposed, it is open no more.</returns>
    /// <exception cref="VirtbusException">EBUSY: another user has it; ENODEV: it has hung up.</exception>
    public TtyUser Open(string user, Action? changed = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(user);
        lock (_lock)
        {
            if (IsHungUp)
                throw new VirtbusException(Errno.ENODEV, $"Line '{Name}' has hung up: its driver has gone.");
            if (_user is { } other)
                throw new VirtbusException(Errno.EBUSY, $"Line '{Name}' is open by {other.Name}. Close it there first.");
            var opened = new TtyUser(this, user, changed);
            Volatile.Write(ref _user, opened);
            return opened;
        }
    }

    /// <summary>For the driver: bytes have come, there is room again, the size is another, or nothing goes any more. Under no lock of the driver's.</summary>
    public void Wake() => Volatile.Read(ref _user)?.Tell();

    /// <inheritdoc/>
    protected override void AddUeventVariables(UeventVariables variables) => variables.Add("DEVNAME", Name);

    /// <inheritdoc/>
    protected override ValueTask OnLeavingAsync()
    {
        HangUp();
        return default;
    }

    /// <summary>Takes the driver's side away from the user, who is told. Nobody is in it when this returns, and nothing here holds it.</summary>
    internal void HangUp()
    {
        _calls.Close();
        Volatile.Write(ref _ops, null);
        TtyUser? user;
        // After an open that began before.
        lock (_lock)
            user = _user;
        user?.Tell();
    }

    internal int Read(TtyUser user, Span<byte> destination, out Fault fault)
    {
        if (!TryEnter(user, out fault))
            return 0;
        try
        {
            return _ops!.Read(destination, out fault);
        }
        finally
        {
            _calls.Leave();
        }
    }

    internal int Write(TtyUser user, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (!TryEnter(user, out fault))
            return 0;
        try
        {
            return _ops!.Write(source, out fault);
        }
        finally
        {
            _calls.Leave();
        }
    }

    /// <summary>The user closes: what came for him and he has not read is for nobody.</summary>
    internal void Close(TtyUser user)
    {
        lock (_lock)
        {
            if (_user != user)
                return;
            Span<byte> dropped = stackalloc byte[DropBytes];
            // Not for ever, when the other end goes on sending.
            for (var left = MostDropped; left > 0 && Read(user, dropped, out _) is > 0 and var count; left -= count)
                continue;
            Volatile.Write(ref _user, null);
        }
    }

    private bool TryEnter(TtyUser user, out Fault fault)
    {
        fault = Fault.None;
        if (Volatile.Read(ref _user) != user)
            fault = new Fault(Errno.EBADF, "the line is not open any more");
        else if (!_calls.TryEnter())
            fault = new Fault(Errno.ENODEV, "the line has hung up");
        return fault == Fault.None;
    }
}
