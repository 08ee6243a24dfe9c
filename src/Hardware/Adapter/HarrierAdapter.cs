using Virtbus.Hardware.VirtioBlk;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The second make of simulated adapter: 32-bit registers. A driver writes the argument, then the command, and reads status and result.
/// </summary>
/// <param name="engine">The inside; disposed with the adapter.</param>
public sealed class HarrierAdapter(AdapterEngine engine) : IDisposable
{
    /// <summary>The model name that drivers match by.</summary>
    public const string Model = "harrier";

    private readonly Lock _registers = new();
    private uint _argument;
    private uint _status;
    private uint _result;

    /// <summary>The inside of the adapter, for who puts media in and plugs the wire.</summary>
    public AdapterEngine Engine { get; } = engine;

    /// <summary>Reads a register.</summary>
    /// <param name="register">Which.</param>
    /// <returns>The value; all ones for a register that there is not.</returns>
    public uint Read(HarrierRegister register)
    {
        lock (_registers)
        {
            return register switch
            {
                HarrierRegister.Capabilities => (uint)(Engine.NetworkParts | (Engine.VdpaParts << 8)),
                HarrierRegister.AddressLow => (uint)Engine.MacAddress,
                HarrierRegister.AddressHigh => (uint)(Engine.MacAddress >> 32),
                HarrierRegister.Argument => _argument,
                HarrierRegister.Status => _status,
                HarrierRegister.Result => _result,
                _ => uint.MaxValue,
            };
        }
    }

    /// <summary>Writes a register. Writes to read-only registers and to those that there are not have no effect.</summary>
    /// <param name="register">Which.</param>
    /// <param name="value">The value.</param>
    public void Write(HarrierRegister register, uint value)
    {
        lock (_registers)
        {
            if (register == HarrierRegister.Argument)
                _argument = value;
            else if (register == HarrierRegister.Command)
                Execute(value);
        }
    }

    /// <summary>The window of a queue set; null when there is none.</summary>
    /// <param name="index">What the command to allocate resulted in.</param>
    public QueueSet? QueueWindow(uint index) => Engine.TryGet(index, out var set) ? set : null;

    /// <summary>Makes a virtio block function; see <see cref="AdapterEngine.CreateBlockFunction"/>.</summary>
    /// <param name="name">The function's name.</param>
    /// <param name="medium">The medium's name.</param>
    /// <param name="serial">What it answers to GET_ID.</param>
    /// <param name="queues">Request queues.</param>
    public VirtioBlkDevice CreateBlockFunction(string name, string medium, string serial, int queues) =>
        Engine.CreateBlockFunction(name, medium, serial, queues);

    /// <inheritdoc/>
    public void Dispose() => Engine.Dispose();

    private void Execute(uint command)
    {
        Fault fault;
        switch ((HarrierCommand)command)
        {
            case HarrierCommand.AllocateQueueSet:
                _result = Engine.TryAllocate((int)_argument, out var set, out fault) ? set!.Id : 0;
                break;
            case HarrierCommand.FreeQueueSet:
                Engine.TryFree(_argument, out fault);
                break;
            default:
                fault = new Fault(Errno.EOPNOTSUPP, "unknown command");
                break;
        }
        _status = (uint)fault.Errno;
    }
}
