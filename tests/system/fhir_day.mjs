// The day of a practice by fhir-kit-client: what fhir_day.py does in Python, in the words of that library.
// Arguments: base URL, a file of JSON (token, patient, documents, replacement). Prints every answer, one a line.
import { readFileSync } from 'node:fs';
import { Client } from 'fhir-kit-client';

const [base, file] = process.argv.slice(2);
const { token, patient, documents, replacement, described } = JSON.parse(readFileSync(file, 'utf-8'));
const client = new Client({ baseUrl: base, bearerToken: token });
const told = (answer) => { console.log(JSON.stringify(answer)); return answer; };
const expect = (truth, what) => { if (!truth) throw new Error(`expected: ${what}`); };
const subject = { name: 'patient', valueIdentifier: { system: patient.split('|')[0], value: patient.split('|')[1] } };
const parameters = (...more) => ({ resourceType: 'Parameters', parameter: [subject, ...more] });
const operate = (name, input) => client.operation({ name, resourceType: 'Patient', input }).then(told);
const search = (resourceType, searchParams) => client.search({ resourceType, searchParams }).then(told);
const byIdentifier = (each) => `${each.masterIdentifier.system}|${each.masterIdentifier.value}`;

const before = await search('Patient', { identifier: patient });
expect(before.total === 0, 'no dossier');
await operate('dossier-open', parameters());
await operate('dossier-authorise', parameters(
  { name: 'attendingPhysician', valueBoolean: true }, { name: 'patientConsented', valueBoolean: true }));

const fed = [];
for (const body of documents) fed.push(told(await client.create({ resourceType: 'DocumentReference', body })));

let page = await search('DocumentReference', { 'patient.identifier': patient, status: 'current', _count: 2 });
const found = [...page.entry];
while ((page.link ?? []).some((link) => link.relation === 'next')) {
  page = told(await client.nextPage({ bundle: page }));
  found.push(...page.entry);
}
expect(new Set(found.map((each) => each.resource.id)).size === documents.length, 'every document on one page only');

const read = told(await client.read({ resourceType: 'DocumentReference', id: fed[0].id }));
expect(read.status === 'current', 'a current document');
await search('List', { 'patient.identifier': patient, code: 'submissionset' });

const text = JSON.stringify(replacement).replaceAll('OLD-DOCUMENT', fed[0].id);
const answer = told(await client.transaction({ body: JSON.parse(text) }));
expect(answer.entry.at(-1).response.status.startsWith('200'), 'the old one superseded');

const flags = 'https://mos.esante.gouv.fr/NOS/TRE_A07-StatutVisibiliteDocument/FHIR/TRE-A07-StatutVisibiliteDocument';
const archived = 'https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition/pdsm-ext-is-archived';
const change = (id, jsonPatch) => client.patch({ resourceType: 'DocumentReference', id, jsonPatch }).then(told);
const label = { coding: [{ system: flags, code: 'MASQUE_PS' }] };
await change(fed[1].id, [{ op: 'add', path: '/securityLabel/-', value: label }]);
await change(fed[1].id, [{ op: 'add', path: '/extension', value: [{ url: archived, valueBoolean: true }] }]);
const gone = await change(fed[2].id, [{ op: 'replace', path: '/status', value: 'entered-in-error' }]);
expect(gone.status === 'entered-in-error', 'deleted');
expect(byIdentifier(fed[0]).includes('|'), 'an identifier');

const asked = { resourceType: 'Parameters', parameter: [{ name: 'resource', resource: described }] };
await operate('match', asked);
told(await client.request(`Patient/$ihe-pix?sourceIdentifier=${encodeURIComponent(patient)}`));
const trail = await search('AuditEvent', { 'patient.identifier': patient, date: 'ge2020-01-01', _count: 100 });
expect(trail.entry.length > 5, 'a trail');
try {
  await client.read({ resourceType: 'DocumentReference', id: 'a'.repeat(64) });
  expect(false, 'a refusal');
} catch (error) {
  expect(error.response?.status === 404, `404, not ${error.message}`);
  told(error.response.data);
}
