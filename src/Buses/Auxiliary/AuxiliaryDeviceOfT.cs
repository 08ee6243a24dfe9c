using Virtbus.Core;

namespace Virtbus.Buses.Auxiliary;

/// <summary>An auxiliary device that carries one typed payload, as the bus makes it in one call.</summary>
/// <typeparam name="TPayload">What creator and consumer share.</typeparam>
/// <param name="bus">The bus.</param>
/// <param name="module">The creator's module name.</param>
/// <param name="name">The kind of part.</param>
/// <param name="id">The creator's number for it.</param>
/// <param name="parent">The device that this part was cut from.</param>
/// <param name="payload">What creator and consumer share; valid until the device is deleted.</param>
public sealed class AuxiliaryDevice<TPayload>(AuxiliaryBus bus, string module, string name, uint id, Device parent, TPayload payload)
    : AuxiliaryDevice(bus, module, name, id, parent)
    where TPayload : class
{
    private readonly TPayload _payload = payload ?? throw new ArgumentNullException(nameof(payload));

    /// <summary>What creator and consumer share.</summary>
    /// <exception cref="ObjectDisposedException">The device was deleted, see <see cref="Device.Shared"/>.</exception>
    public TPayload Payload => Shared(_payload);
}
